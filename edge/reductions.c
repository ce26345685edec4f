/* Sums over attention rows and residual streams in one pass over memory: the twin of reductions.py's numpy, which defines them.
 * As many sums run side by side as the vectors of the processor that it is compiled for hold. */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { BYTES = LANES * 4, SUMS = 6 };

typedef float floats __attribute__((vector_size(BYTES)));
typedef int32_t integers __attribute__((vector_size(BYTES)));

static inline floats load(const float *from) {
    floats x;
    memcpy(&x, from, BYTES);
    return x;
}

/* The last numbers of a row, fewer than LANES, and zeros after them. */
static inline floats load_some(const float *from, int64_t count) {
    floats x = {0};
    memcpy(&x, from, count * sizeof(float));
    return x;
}

static inline float total(floats x) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

/* Natural logarithm of normal numbers above zero, to 1e-7 of 1 + |ln x|; exactly 0 at 1. x = 2^e (1 + m) with 1 + m from
 * sqrt(1/2) to sqrt 2; the polynomial is that of logf in the Cephes library (S. Moshier). */
static inline floats logarithm(floats x) {
    const integers bits = (integers)x, e = (bits - 0x3f3504f3) >> 23;
    const floats m = (floats)(bits - (e << 23)) - 1.0f, power = __builtin_convertvector(e, floats);
    floats y = 7.0376836292e-2f * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    return power * 0.693147180560f + (m + m * m * (y * m - 0.5f));
}

/* p ln p; the smallest normal number changes no weight but 0, which gives 0. */
static inline floats weighted(floats p) { return p * logarithm(p + 1.17549435e-38f); }

/* Of rows [L, H, K] with strides in numbers: sum over K of a ln a for each head [L, H] and for the heads' mean row [L], and
 * the first key's weight [L, H]. `mean` is room for K numbers and LANES more. */
void edgetrace_rows(const float *rows, int64_t layers, int64_t heads, int64_t keys, int64_t layer_stride, int64_t head_stride,
                    float *mean, float *by_head, float *of_mean, float *first) {
    const int64_t whole = keys / LANES * LANES, rest = keys - whole;
    const float share = 1.0f / heads;
    for (int64_t layer = 0; layer < layers; layer++) {
        memset(mean, 0, (whole + LANES) * sizeof(float));
        for (int64_t head = 0; head < heads; head++) {
            const float *row = rows + layer * layer_stride + head * head_stride;
            floats sum = {0};
            for (int64_t k = 0; k < whole; k += LANES) {
                const floats p = load(row + k), so_far = load(mean + k) + p;
                sum += weighted(p);
                memcpy(mean + k, &so_far, BYTES);
            }
            if (rest) {
                const floats p = load_some(row + whole, rest), so_far = load(mean + whole) + p;
                sum += weighted(p);
                memcpy(mean + whole, &so_far, BYTES);
            }
            by_head[layer * heads + head] = total(sum);
            first[layer * heads + head] = row[0];
        }
        floats sum = {0};
        for (int64_t k = 0; k < keys; k += LANES) sum += weighted(load(mean + k) * share);
        of_mean[layer] = total(sum);
    }
}

static inline void add(floats *sums, floats now, floats below, floats before) {
    const floats change = now - below, token_change = now - before;
    sums[0] += now * now;
    sums[1] += change * change;
    sums[2] += now * below;
    sums[3] += token_change * token_change;
    sums[4] += now * before;
    sums[5] += before * before;
}

/* Of residual streams [N, D] and those of the position before: SUMS rows [N] in the order of `add`. The first stream has none
 * below it and stands in for it. */
void edgetrace_streams(const float *now, const float *before, int64_t streams, int64_t width, float *out) {
    const int64_t whole = width / LANES * LANES, rest = width - whole;
    for (int64_t stream = 0; stream < streams; stream++, now += width, before += width) {
        const float *below = stream ? now - width : now;
        floats sums[SUMS] = {{0}};
        for (int64_t i = 0; i < whole; i += LANES) add(sums, load(now + i), load(below + i), load(before + i));
        if (rest) add(sums, load_some(now + whole, rest), load_some(below + whole, rest), load_some(before + whole, rest));
        for (int sum = 0; sum < SUMS; sum++) out[sum * streams + stream] = total(sums[sum]);
    }
}
