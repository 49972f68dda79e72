/* The k largest values of each feature, in descending order. */
#define SALIENCE 0

static int pool(int n, int k, float *to, unsigned char *kept)
{
    int filled, i, d;
    (void)kept;
    for (filled = 0; filled < k && filled < n; filled++, to += WIDTH)
        for (d = 0; d < WIDTH; d++) {
            /* The values chosen so far change places with those at the front. */
            float *first = tokens + (1 + filled) * WIDTH + d, *largest = first;
            for (i = filled + 1; i < n; i++)
                if (tokens[(1 + i) * WIDTH + d] > *largest)
                    largest = tokens + (1 + i) * WIDTH + d;
            to[d] = *largest;
            *largest = *first;
        }
    return filled;
}

