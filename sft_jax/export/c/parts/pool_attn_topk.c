static int pool(int n, int k, float *to, unsigned char *kept)
{
    return select_salient(n, k, to, kept);
}

