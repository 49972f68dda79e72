/* A linear layer with weights in float. */
typedef struct {
    const float *kernel; /* [inputs][outputs] */
    const float *bias; /* or null */
} layer;

static void linear(const layer *l, const float *x, int inputs, float *y, int outputs)
{
    const float *row = l->kernel;
    int i, o;
    for (o = 0; o < outputs; o++)
        y[o] = (l->bias ? l->bias[o] : 0.0f) + x[0] * row[o];
    for (i = 1; i < inputs; i++) {
        row += outputs;
        for (o = 0; o < outputs; o++)
            y[o] += x[i] * row[o];
    }
}

