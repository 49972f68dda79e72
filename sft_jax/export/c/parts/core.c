/* Compilers make calls of memcpy and memset of loops; there is no library to call. */
#if defined(__clang__)
#define SFT_PLAIN_LOOPS __attribute__((noinline, no_builtin("memcpy", "memset")))
#elif defined(__GNUC__)
#define SFT_PLAIN_LOOPS __attribute__((noinline, optimize("no-tree-loop-distribute-patterns")))
#else
#define SFT_PLAIN_LOOPS
#endif

static float tokens[(MOST_TOKENS + 1) * WIDTH]; /* of one modality, CLS first */
static float fused[MOST_FUSED * WIDTH];
static float keys_values[MOST_SEQUENCE * 2 * WIDTH];
static float weights[MOST_SEQUENCE];
static int places[MOST_TOKENS]; /* of the tokens of one modality, padding left out */
static float patch[MOST_PATCH];
static float normed[WIDTH], hidden[HIDDEN], change[WIDTH];

typedef union {
    float number;
    unsigned int bits;
} float_bits;

/* exp(x) for x <= 0, to 1e-7 (Cephes). */
static float exponential(float x)
{
    float z, r, y;
    int n;
    float_bits power;
    if (!(x > -87.0f))
        return 0.0f;
    z = x * 1.44269504f;
    n = (int)(z - 0.5f);
    r = x - (float)n * 0.693359375f + (float)n * 2.12194440e-4f;
    y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    power.bits = (unsigned int)(n + 127) << 23;
    return y * power.number;
}

/* 1/sqrt(x), by a first guess and three steps of Newton. */
static float inverse_root(float x)
{
    float_bits guess;
    float half = 0.5f * x;
    int i;
    guess.number = x;
    guess.bits = 0x5f375a86u - (guess.bits >> 1);
    for (i = 0; i < 3; i++)
        guess.number *= 1.5f - half * guess.number * guess.number;
    return guess.number;
}

/* By its bits: -ffast-math takes every number for finite. */
static int is_finite(float x)
{
    float_bits value;
    value.number = x;
    return (value.bits & 0x7f800000u) != 0x7f800000u;
}

SFT_PLAIN_LOOPS static void copy(float *to, const float *from, int n)
{
    int i;
    for (i = 0; i < n; i++)
        to[i] = from[i];
}

SFT_PLAIN_LOOPS static void clear(float *x, int n)
{
    int i;
    for (i = 0; i < n; i++)
        x[i] = 0.0f;
}

SFT_PLAIN_LOOPS static void clear_flags(unsigned char *x, int n)
{
    int i;
    for (i = 0; i < n; i++)
        x[i] = 0;
}

static void add(float *to, const float *x)
{
    int i;
    for (i = 0; i < WIDTH; i++)
        to[i] += x[i];
}

/* Layer norm without scale and bias. */
static void normalise(const float *x, float *y)
{
    float mean = 0.0f, variance = 0.0f, factor;
    int i;
    for (i = 0; i < WIDTH; i++)
        mean += x[i];
    mean /= WIDTH;
    for (i = 0; i < WIDTH; i++)
        variance += (x[i] - mean) * (x[i] - mean);
    factor = inverse_root(variance / WIDTH + 1e-5f);
    for (i = 0; i < WIDTH; i++)
        y[i] = (x[i] - mean) * factor;
}

/* Softmax in place. */
static void softmax(float *x, int n)
{
    float largest = x[0], total = 0.0f;
    int i;
    for (i = 1; i < n; i++)
        if (x[i] > largest)
            largest = x[i];
    for (i = 0; i < n; i++) {
        x[i] = exponential(x[i] - largest);
        total += x[i];
    }
    for (i = 0; i < n; i++)
        x[i] /= total;
}

/* Adds to the first `count` of `n` tokens what they attend to. `received` is null, or takes the
   attention that each token after CLS receives, from CLS or from those after it. */
static void attend(const attention *a, float *x, int n, int count, float *received)
{
    int i, j, h, d;
    for (i = 0; i < n; i++) {
        normalise(x + i * WIDTH, normed);
        linear(&a->key_value, normed, WIDTH, keys_values + i * 2 * WIDTH, 2 * WIDTH);
    }
    if (received)
        clear(received, n - 1);
    for (i = 0; i < count; i++) {
        normalise(x + i * WIDTH, normed);
        linear(&a->query, normed, WIDTH, hidden, WIDTH);
        clear(normed, WIDTH);
        for (h = 0; h < WIDTH; h += HEAD) {
            for (j = 0; j < n; j++) {
                const float *key = keys_values + j * 2 * WIDTH + h;
                weights[j] = hidden[h] * key[0];
                for (d = 1; d < HEAD; d++)
                    weights[j] += hidden[h + d] * key[d];
            }
            softmax(weights, n);
            for (j = 0; j < n; j++) {
                const float *value = keys_values + j * 2 * WIDTH + WIDTH + h;
                for (d = 0; d < HEAD; d++)
                    normed[h + d] += weights[j] * value[d];
                if (received && j && (i == 0) == FROM_CLS)
                    received[j - 1] += weights[j];
            }
        }
        linear(&a->out, normed, WIDTH, change, WIDTH);
        add(x + i * WIDTH, change);
    }
}

/* Applies a transformer block, and computes the first `count` of `n` tokens. */
static void apply(const block *b, float *x, int n, int count)
{
    int i, d;
    attend(&b->mixing, x, n, count, 0);
    for (i = 0; i < count; i++) {
        normalise(x + i * WIDTH, normed);
        linear(&b->mlp_in, normed, WIDTH, hidden, HIDDEN);
        for (d = 0; d < HIDDEN; d++)
            hidden[d] = hidden[d] > 0.0f ? hidden[d] : 0.0f;
        linear(&b->mlp_out, hidden, HIDDEN, change, WIDTH);
        add(x + i * WIDTH, change);
    }
}

/* Reads a patch, standardised and 0 at padding. It returns 1 if any position is real, 0 if none
   is, and -1 if a number is not finite. */
static int read_patch(const modality *m, const sft_input *input, int length, int number)
{
    int position, axis, f, real = 0;
    for (position = 0; position < m->positions; position++) {
        int patches = number, places_left = position, at = 0, stride = 1, inside = 1;
        float *to = patch + position * m->features;
        for (axis = AXES - 1; axis >= 0; axis--) {
            int most = axis ? m->length[axis] : length;
            int coordinate = patches % m->count[axis] * m->size[axis]
                             + places_left % m->size[axis];
            inside = inside && coordinate < most;
            at += coordinate * stride;
            stride *= m->length[axis];
            patches /= m->count[axis];
            places_left /= m->size[axis];
        }
        if (!inside || (input->mask && !input->mask[at])) {
            clear(to, m->features);
            continue;
        }
        real = 1;
        for (f = 0; f < m->features; f++) {
            float x = input->values[at * m->features + f];
            if (!is_finite(x))
                return -1;
            to[f] = (x - m->mean[f] - m->mean_rest[f]) / m->deviation[f];
        }
    }
    return real;
}

/* Makes the tokens of a modality, CLS first and without padding. It returns their number; 1 if
   the modality is absent, and -1 if a number is not finite. */
static int tokenize(const modality *m, const sft_input *input)
{
    int length = input->length ? input->length : m->length[0];
    int n = 1, number;
    copy(tokens, m->cls, WIDTH);
    for (number = 0; input->values && number < m->tokens; number++) {
        int real = read_patch(m, input, length, number);
        if (real < 0)
            return -1;
        if (!real)
            continue;
        linear(&m->projection, patch, m->positions * m->features, tokens + n * WIDTH, WIDTH);
        add(tokens + n * WIDTH, m->position + number * WIDTH);
        places[n - 1] = number;
        n++;
    }
    return n;
}

