/* The first token is classified. */
#define READ_TOKENS 1

static void read_out(int n, int entering)
{
    (void)n;
    (void)entering;
    copy(hidden, fused, WIDTH);
}

