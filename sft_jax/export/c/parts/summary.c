static float steps[MOST_STEPS]; /* of one feature, padding left out */
static float statistics[MOST_STATISTICS];

static float root(float x)
{
    return x * inverse_root(x);
}

/* sin(pi x) for x from 0 to 1, to 1e-7 (Taylor). */
static float half_wave(float x)
{
    float y = 3.14159265f * (x < 0.5f ? x : 1.0f - x), z = y * y, sum;
    sum = 2.7557319e-6f - z * 2.5052108e-8f;
    sum = 1.9841270e-4f - z * sum;
    sum = 8.3333333e-3f - z * sum;
    sum = 1.6666667e-1f - z * sum;
    return y - y * z * sum;
}

/* Collects the real steps of a feature, (x - offset) / scale, and returns their number. */
SFT_PLAIN_LOOPS static int collect(const modality *m, const sft_input *input, int feature,
                                   float offset, float scale)
{
    int length = input->length ? input->length : m->length[0];
    int t, n = 0;
    for (t = 0; t < length; t++)
        if (!input->mask || input->mask[t])
            steps[n++] = (input->values[t * m->features + feature] - offset) / scale;
    return n;
}

/* Sorts the first n steps (Shell). */
SFT_PLAIN_LOOPS static void sort_steps(int n)
{
    int gap, i, j;
    for (gap = n / 2; gap; gap /= 2)
        for (i = gap; i < n; i++) {
            float x = steps[i];
            for (j = i; j >= gap && steps[j - gap] > x; j -= gap)
                steps[j] = steps[j - gap];
            steps[j] = x;
        }
}

/* A quantile, in quarters, of n sorted steps. */
static float quantile(int n, int quarters)
{
    int at = (n - 1) * quarters, rest = at % 4;
    const float *x = steps + at / 4;
    return rest ? x[0] + (x[1] - x[0]) * 0.25f * (float)rest : x[0];
}

/* Subtracts the mean of n steps from them, and returns it. */
static float centre(int n)
{
    float mean = 0.0f;
    int t;
    for (t = 0; t < n; t++)
        mean += steps[t];
    mean /= (float)n;
    for (t = 0; t < n; t++)
        steps[t] -= mean;
    return mean;
}

/* Tapers n steps (Hann). Then two steps at the same distance from the middle become their sum and
   their difference. It returns the mean square before the taper. */
static float taper(int n)
{
    float square = 0.0f;
    int t;
    for (t = 0; t < n; t++) {
        float window = half_wave((float)(t + 1) / (float)(n + 1));
        square += steps[t] * steps[t];
        steps[t] *= window * window;
    }
    for (t = 0; t < n - 1 - t; t++) {
        float x = steps[t];
        steps[t] += steps[n - 1 - t];
        steps[n - 1 - t] = x - steps[n - 1 - t];
    }
    return square / (float)n;
}

/* Power of a number of cycles in n steps, by a pointer that turns. It starts in the middle, so that
   what it loses by rounding is smooth over the series. */
static float power_at(int n, int cycles)
{
    float turn = (float)cycles / (float)n, sine = half_wave(turn), cosine = half_wave(0.5f - turn);
    float back = 2.0f * sine * sine, aside = 2.0f * sine * cosine;
    float x = n % 2 ? 1.0f : cosine, y = n % 2 ? 0.0f : sine, even = 0.0f, odd = 0.0f;
    int t;
    for (t = (n - 1) / 2; t >= 0; t--) {
        float before = x;
        even += x * steps[t];
        odd += y * steps[n - 1 - t];
        x -= back * x + aside * y;
        y -= back * y - aside * before;
    }
    return even * even + odd * odd;
}

/* Computes 12 statistics of each feature, each of all features and then the next: mean, minimum,
   quartiles, maximum, root of the deviation, and roots of the amplitudes in six octaves. It
   returns 0 if no step is real. Steps are scaled by their range, so that squares stay in float. */
static int summarise(const modality *m, const sft_input *input)
{
    int f, i, cycles, count = m->features;
    for (f = 0; f < count; f++) {
        float first, range, mean, *to = statistics + f;
        int n = collect(m, input, f, 0.0f, 1.0f);
        if (!n)
            return 0;
        first = steps[0];
        sort_steps(n);
        range = steps[n - 1] - steps[0];
        for (i = 0; i < 4; i++)
            to[(1 + i) * count] = quantile(n, i < 2 ? i : i + 1);
        collect(m, input, f, first, range > 0.0f ? range : 1.0f);
        mean = centre(n);
        mean += centre(n); /* what the first sum lost by rounding */
        to[0] = first + range * mean;
        to[5 * count] = root(range * root(taper(n)));
        for (i = 0; i < 6; i++) {
            float total = 0.0f;
            for (cycles = 1 << i; cycles < 2 << i && cycles <= n / 2; cycles++)
                total += power_at(n, cycles);
            to[(6 + i) * count] = root(range * root(total / (0.375f * (float)(n + 1))));
        }
    }
    return 1;
}

/* The input of modality i: what the caller gives, or else the summary of its source. */
static const sft_input *find_input(const sft_input *inputs, int i)
{
    static sft_input computed;
    int source = sources[i];
    if (inputs[i].values || source < 0 || !inputs[source].values
        || !summarise(&modalities[source], &inputs[source]))
        return &inputs[i];
    computed.values = statistics;
    return &computed;
}

