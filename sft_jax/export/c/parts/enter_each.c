/* The CLS of each modality that is present enters fusion, before all other tokens. */
static int enter(void)
{
    return SFT_MODALITIES;
}

static void take_cls(int present)
{
    copy(fused + present * WIDTH, tokens, WIDTH);
}

/* Fills the places of absent modalities with the last tokens, whose order means nothing. */
static int finish_entering(int present, int *n)
{
    int hole;
    for (hole = present; hole < SFT_MODALITIES && *n > SFT_MODALITIES; hole++) {
        *n -= 1;
        copy(fused + hole * WIDTH, fused + *n * WIDTH, WIDTH);
    }
    if (hole < SFT_MODALITIES)
        *n = hole;
    return present;
}

