/* The k - 1 most salient tokens, and the mean of the others, weighted by their salience. */
static int pool(int n, int k, float *to, unsigned char *kept)
{
    int filled = select_salient(n, k - 1, to, kept), i, d;
    float total = 0.0f;
    if (k < 1 || filled == n)
        return filled;
    to += filled * WIDTH;
    clear(to, WIDTH);
    for (i = 0; i < n; i++)
        total += salience[i] < 0.0f ? 0.0f : salience[i];
    for (i = 0; i < n; i++) {
        float weight = total > 0.0f ? salience[i] / total : 1.0f / (float)(n - filled);
        if (salience[i] < 0.0f)
            continue;
        for (d = 0; d < WIDTH; d++)
            to[d] += weight * tokens[(1 + i) * WIDTH + d];
    }
    return filled + 1;
}

