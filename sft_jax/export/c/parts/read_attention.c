/* A learned query attends to all tokens, and the result is classified. Query and keys are one
   vector for each head, and the bias of `readout_out` holds the query itself. */
#define READ_TOKENS n

static void read_out(int n, int entering)
{
    int h, i, d;
    (void)entering;
    for (h = 0; h < HEADS; h++) {
        const float *query = readout_query + h * WIDTH;
        for (i = 0; i < n; i++) {
            normalise(fused + i * WIDTH, normed);
            weights[i] = 0.0f;
            for (d = 0; d < WIDTH; d++)
                weights[i] += query[d] * normed[d];
        }
        softmax(weights, n);
        clear(hidden, WIDTH);
        for (i = 0; i < n; i++) {
            normalise(fused + i * WIDTH, normed);
            for (d = 0; d < WIDTH; d++)
                hidden[d] += weights[i] * normed[d];
        }
        linear(&readout_values[h], hidden, WIDTH, change + h * HEAD, HEAD);
    }
    linear(&readout_out, change, WIDTH, hidden, WIDTH);
}

