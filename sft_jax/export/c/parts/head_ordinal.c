/* Probabilities of ordered classes, by proportional odds: that of class i is
   sigmoid(t[i] - s) - sigmoid(t[i - 1] - s), written as a product. */
static void head(float *outputs)
{
    float score;
    int i;
    linear(&classifier, normed, WIDTH, &score, 1);
    for (i = 0; i < SFT_OUTPUTS; i++)
        outputs[i] = gaps[i];
    for (i = 0; i < SFT_OUTPUTS - 1; i++) {
        outputs[i] *= sigmoid(thresholds[i] - score);
        outputs[i + 1] *= sigmoid(score - thresholds[i]);
    }
}

