/* All tokens. */
#define SALIENCE 0

static int pool(int n, int k, float *to, unsigned char *kept)
{
    int i;
    (void)k;
    copy(to, tokens + WIDTH, n * WIDTH);
    for (i = 0; kept && i < n; i++)
        kept[places[i]] = 1;
    return n;
}

