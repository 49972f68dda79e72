/* The mean of each of k windows. */
#define SALIENCE 0

static int pool(int n, int k, float *to, unsigned char *kept)
{
    int used = k < n ? k : n, window, i, d;
    (void)kept;
    for (window = 0; window < used; window++, to += WIDTH) {
        int start = window * n / used, end = (window + 1) * n / used;
        clear(to, WIDTH);
        for (i = start; i < end; i++)
            add(to, tokens + (1 + i) * WIDTH);
        for (d = 0; d < WIDTH; d++)
            to[d] /= (float)(end - start);
    }
    return used;
}

