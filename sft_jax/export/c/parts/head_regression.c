/* The predicted numbers. */
static void head(float *outputs)
{
    linear(&classifier, normed, WIDTH, outputs, SFT_OUTPUTS);
}

