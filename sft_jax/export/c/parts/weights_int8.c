/* A linear layer with weights of 8 bits, and one scale for each output. */
typedef struct {
    const signed char *kernel; /* [inputs][outputs] */
    const float *bias; /* or null */
    const float *scale;
} layer;

static void linear(const layer *l, const float *x, int inputs, float *y, int outputs)
{
    const signed char *row = l->kernel;
    int i, o;
    for (o = 0; o < outputs; o++)
        y[o] = x[0] * (float)row[o];
    for (i = 1; i < inputs; i++) {
        row += outputs;
        for (o = 0; o < outputs; o++)
            y[o] += x[i] * (float)row[o];
    }
    for (o = 0; o < outputs; o++)
        y[o] = y[o] * l->scale[o] + (l->bias ? l->bias[o] : 0.0f);
}

