/* Tells if numbers of tokens are possible; some models need one token at least. */
static int allows(const int *k)
{
    int i, total = 0;
    for (i = 0; i < SFT_MODALITIES; i++) {
        if (k[i] < 0 || k[i] > modalities[i].tokens)
            return 0;
        total += k[i];
    }
    return total >= LEAST_K;
}

int sft_predict(const sft_input inputs[SFT_MODALITIES], const int *k, float outputs[SFT_OUTPUTS],
                unsigned char *kept)
{
    int i, j, n, entering, present = 0;
    if (k && !allows(k))
        return SFT_BAD_K;
    for (i = 0; i < SFT_MODALITIES; i++)
        if (inputs[i].length < 0 || inputs[i].length > modalities[i].length[0])
            return SFT_BAD_LENGTH;
    n = enter();
    for (i = 0; i < SFT_MODALITIES; i++) {
        const modality *m = &modalities[i];
        int count = tokenize(m, find_input(inputs, i));
        if (count < 0)
            return SFT_NOT_FINITE;
        if (kept)
            clear_flags(kept, m->tokens);
        if (count > 1) {
            for (j = 0; j < BLOCKS; j++)
                apply(&m->blocks[j], tokens, count, count);
            attend(&m->pooling, tokens, count, count, SALIENCE);
            take_cls(present++);
            n += pool(count - 1, k ? k[i] : m->k, fused + n * WIDTH, kept);
        }
        kept = kept ? kept + m->tokens : kept;
    }
    if (!present)
        return SFT_NO_INPUT;
    entering = finish_entering(present, &n);
    for (j = 0; j < FUSED_BLOCKS; j++)
        apply(&fused_blocks[j], fused, n, j < FUSED_BLOCKS - 1 ? n : READ_TOKENS);
    read_out(n, entering);
    normalise(hidden, normed);
    head(outputs);
    return SFT_OK;
}

#endif
