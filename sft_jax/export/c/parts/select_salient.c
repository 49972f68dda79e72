static float salience[MOST_TOKENS];
#define SALIENCE salience

/* Takes the k tokens that receive the most attention, and sets their salience to -1. */
static int select_salient(int n, int k, float *to, unsigned char *kept)
{
    int filled, i;
    for (filled = 0; filled < k && filled < n; filled++) {
        int best = 0;
        for (i = 1; i < n; i++)
            if (salience[i] > salience[best])
                best = i;
        salience[best] = -1.0f;
        copy(to + filled * WIDTH, tokens + (1 + best) * WIDTH, WIDTH);
        if (kept)
            kept[places[best]] = 1;
    }
    return filled;
}

