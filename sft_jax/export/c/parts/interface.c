/* One modality of an example. Null values stand for an absent modality, or for one that the file
   computes from another; a mask of zeros leaves out either. */
typedef struct {
    const float *values;       /* [positions][features], as measured, or null */
    const unsigned char *mask; /* [positions], 0 at padding; null if there is no padding */
    int length;                /* positions along the first axis; 0 for all */
} sft_input;

enum { SFT_OK, SFT_BAD_LENGTH, SFT_BAD_K, SFT_NOT_FINITE, SFT_NO_INPUT };

#ifdef __cplusplus
extern "C" {
#endif

/* Computes the outputs of one example. It uses static memory: one call at a time.

   inputs   the modalities, in the order of the enumerators above
   k        null, or the number of tokens kept of each modality, from 0 to all that it has
   outputs  SFT_OUTPUTS numbers
   kept     null, or SFT_TOKENS flags, set to 1 for each token that is selected

   It returns SFT_OK, or the reason for which the outputs are not written. */
int sft_predict(const sft_input inputs[SFT_MODALITIES], const int *k, float outputs[SFT_OUTPUTS],
                unsigned char *kept);

#ifdef __cplusplus
}
#endif

#ifndef SFT_DECLARATIONS /* Define it to include this file for the declarations alone. */

