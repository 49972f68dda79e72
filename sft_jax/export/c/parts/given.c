/* The caller gives every input. */
static const sft_input *find_input(const sft_input *inputs, int i)
{
    return &inputs[i];
}

