/* What a page calls. It fills the buffers, and runs the modalities whose bits are set. Others are
   padding alone, since null values could be computed. */
#define PAGE_EXPORT(name) __attribute__((export_name(#name)))

static float page_values[PAGE_VALUES];
static unsigned char page_masks[PAGE_POSITIONS], page_kept[SFT_TOKENS];
static const unsigned char page_padding[PAGE_POSITIONS];
static float page_outputs[SFT_OUTPUTS];
static int page_k[SFT_MODALITIES];

PAGE_EXPORT(values) float *page_values_at(void) { return page_values; }
PAGE_EXPORT(masks) unsigned char *page_masks_at(void) { return page_masks; }
PAGE_EXPORT(kept) unsigned char *page_kept_at(void) { return page_kept; }
PAGE_EXPORT(outputs) float *page_outputs_at(void) { return page_outputs; }
PAGE_EXPORT(k) int *page_k_at(void) { return page_k; }

PAGE_EXPORT(run) int page_run(int present)
{
    sft_input inputs[SFT_MODALITIES];
    int i, axis, value = 0, position = 0;
    for (i = 0; i < SFT_MODALITIES; i++) {
        int positions = 1;
        for (axis = 0; axis < AXES; axis++)
            positions *= modalities[i].length[axis];
        inputs[i].values = page_values + value;
        inputs[i].mask = present >> i & 1 ? page_masks + position : page_padding;
        inputs[i].length = 0;
        value += positions * modalities[i].features;
        position += positions;
    }
    return sft_predict(inputs, page_k, page_outputs, page_kept);
}
