/* The centres of k clusters of tokens, weighted by salience. */
static float salience[MOST_TOKENS];
static int centres[MOST_TOKENS], clusters[MOST_TOKENS];
#define SALIENCE salience

static float distance(int i, int j)
{
    float total = 0.0f;
    int d;
    for (d = 0; d < WIDTH; d++) {
        float x = tokens[(1 + i) * WIDTH + d] - tokens[(1 + j) * WIDTH + d];
        total += x < 0.0f ? -x : x;
    }
    return total;
}

/* Sum of the weighted distances from a token to those of its cluster. */
static float cost(int i, int n)
{
    float total = 0.0f;
    int j;
    for (j = 0; j < n; j++)
        if (clusters[j] == clusters[i])
            total += distance(i, j) * salience[j];
    return total;
}

/* Moves each centre to the token of its cluster that costs least; the first of equals. */
static void move_centres(int n, int k)
{
    int i, c;
    for (i = 0; i < n; i++) {
        float nearest = distance(i, centres[0]);
        clusters[i] = 0;
        for (c = 1; c < k; c++) {
            float other = distance(i, centres[c]);
            if (other < nearest) {
                nearest = other;
                clusters[i] = c;
            }
        }
    }
    for (c = 0; c < k; c++) {
        float least = 0.0f;
        int best = -1;
        for (i = 0; i < n; i++) {
            float own = clusters[i] == c ? cost(i, n) : 0.0f;
            if (clusters[i] == c && (best < 0 || own < least)) {
                least = own;
                best = i;
            }
        }
        if (best >= 0)
            centres[c] = best;
    }
}

static int pool(int n, int k, float *to, unsigned char *kept)
{
    int i, c, used = k < n ? k : n;
    for (c = 0; c < used; c++) {
        int best = -1;
        for (i = 0; i < n; i++) {
            int j, taken = 0;
            for (j = 0; j < c; j++)
                taken = taken || centres[j] == i;
            if (!taken && (best < 0 || salience[i] > salience[best]))
                best = i;
        }
        centres[c] = used == n ? c : best; /* All tokens keep their order. */
    }
    for (i = 0; i < MEDOID_STEPS && used && used < n; i++)
        move_centres(n, used);
    for (c = 0; c < used; c++) {
        copy(to + c * WIDTH, tokens + (1 + centres[c]) * WIDTH, WIDTH);
        if (kept)
            kept[places[centres[c]]] = 1;
    }
    return used;
}

