/* Scales and biases of layer norms stand in the layers that follow them, and so does 1/sqrt(e)
   of attention. Biases of keys change nothing, and those of values stand in `out`. */
typedef struct {
    layer query, key_value, out;
} attention;

typedef struct {
    attention mixing;
    layer mlp_in, mlp_out;
} block;

typedef struct {
    int features, tokens, positions; /* positions of one patch */
    int length[AXES], size[AXES], count[AXES]; /* of the modality, of a patch; patches */
    const float *mean, *mean_rest, *deviation; /* of each feature; the mean is a sum of two */
    const float *cls;      /* with its position */
    const float *position; /* [tokens][WIDTH] */
    layer projection;
    const block *blocks;
    attention pooling;
    int k;
} modality;

