/* The mean of each of k windows, weighted by the attention that its tokens receive. */
static float salience[MOST_TOKENS];
#define SALIENCE salience

static int pool(int n, int k, float *to, unsigned char *kept)
{
    int used = k < n ? k : n, window, i, d;
    (void)kept;
    for (window = 0; window < used; window++, to += WIDTH) {
        int start = window * n / used, end = (window + 1) * n / used;
        float total = 0.0f;
        clear(to, WIDTH);
        for (i = start; i < end; i++)
            total += salience[i];
        for (i = start; i < end; i++) {
            float weight = total > 0.0f ? salience[i] / total : 1.0f / (float)(end - start);
            for (d = 0; d < WIDTH; d++)
                to[d] += weight * tokens[(1 + i) * WIDTH + d];
        }
    }
    return used;
}

