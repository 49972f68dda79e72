/* The largest value of each feature in each of k windows. */
#define SALIENCE 0

static int pool(int n, int k, float *to, unsigned char *kept)
{
    int used = k < n ? k : n, window, i, d;
    (void)kept;
    for (window = 0; window < used; window++, to += WIDTH) {
        int start = window * n / used, end = (window + 1) * n / used;
        copy(to, tokens + (1 + start) * WIDTH, WIDTH);
        for (i = start + 1; i < end; i++)
            for (d = 0; d < WIDTH; d++)
                if (tokens[(1 + i) * WIDTH + d] > to[d])
                    to[d] = tokens[(1 + i) * WIDTH + d];
    }
    return used;
}

