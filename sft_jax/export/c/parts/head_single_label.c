/* Probabilities of the classes. */
static void head(float *outputs)
{
    linear(&classifier, normed, WIDTH, outputs, SFT_OUTPUTS);
    softmax(outputs, SFT_OUTPUTS);
}

