/* The probability of each label. */
static void head(float *outputs)
{
    int i;
    linear(&classifier, normed, WIDTH, outputs, SFT_OUTPUTS);
    for (i = 0; i < SFT_OUTPUTS; i++)
        outputs[i] = sigmoid(outputs[i]);
}

