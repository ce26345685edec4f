/* The signals of one step, each array read once from memory: the twins of what signals.py defines in numpy.
 * As many numbers are worked on side by side as the vectors hold of the processor that this is compiled for.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { BYTES = LANES * 4, BLOCK = 64 * LANES };

typedef float floats __attribute__((vector_size(BYTES)));
typedef int32_t integers __attribute__((vector_size(BYTES)));

static inline floats load(const float *from) {
    floats x;
    memcpy(&x, from, BYTES);
    return x;
}

static inline void store(float *to, floats x) { memcpy(to, &x, BYTES); }

/* The next numbers of a row that has `left` of them; where it ends before LANES, `fill` after them. */
static inline floats load_next(const float *from, int64_t left, float fill) {
    if (left >= LANES) return load(from);
    floats x = fill - (floats){0};
    memcpy(&x, from, left * sizeof(float));
    return x;
}

static inline floats select(integers which, floats yes, floats no) {
    return (floats)(((integers)yes & which) | ((integers)no & ~which));
}

static inline floats larger(floats a, floats b) { return select(a > b, a, b); }

static inline float total(floats x) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

/* ln x of normal numbers above zero to 1e-7 of |ln x|, also next to 1: x = 2^e (1 + m) with 1 + m from
 * sqrt(1/2) to sqrt 2, and the polynomial of logf in the Cephes library (S. Moshier). */
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

/* e^x of x from -200 to 0 to 1e-7, 0 below the smallest normal number: x = n ln 2 + r, and the polynomial of
 * Cephes' expf. */
static inline floats exponential(floats x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves no digit behind the point */
    const floats n = (x * 1.44269504089f + round) - round;
    const floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    floats y = 1.9875691500e-4f * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + (r + 1.0f);
    const integers power = __builtin_convertvector(n, integers);
    return (floats)((integers)(y * (floats)((power + 127) << 23)) & (power > -127));
}

/* p ln p. The smallest normal number changes no weight but 0, which gives 0. */
static inline floats weighted(floats p) { return p * logarithm(p + 1.17549435e-38f); }

/* -0 is 0, and NaN stays. */
static inline double not_below_zero(double x) { return x > 0 ? x : x + 0.0 < 0 ? 0 : x + 0.0; }

/* Sum of p ln p over a row, which is also added to `mean`, and that of p^2; a block at a time, so that no
 * float32 sum is long. */
static double negentropy(const float *row, int64_t keys, float *mean, double *squares) {
    double sum = 0;
    *squares = 0;
    for (int64_t start = 0; start < keys; start += BLOCK) {
        floats own = {0}, square = {0};
        for (int64_t k = start; k < keys && k < start + BLOCK; k += LANES) {
            const floats p = load_next(row + k, keys - k, 0);
            own += weighted(p);
            square += p * p;
            store(mean + k, load(mean + k) + p);
        }
        sum += total(own);
        *squares += total(square);
    }
    return sum;
}

/* The same of a row times `share`; beyond the last key there are zeros. */
static double negentropy_of_share(const float *row, int64_t keys, float share) {
    double sum = 0;
    for (int64_t start = 0; start < keys; start += BLOCK) {
        floats own = {0};
        for (int64_t k = start; k < keys && k < start + BLOCK; k += LANES)
            own += weighted(load(row + k) * share);
        sum += total(own);
    }
    return sum;
}

/* From attention rows [L, H, K] with strides in numbers, to entropies and the first key's weights [L, H],
 * then entropy by layer, head dispersion and head divergence [L], then 2-Renyi entropies [L, H], one behind
 * the other. `mean` is room for K + LANES numbers. */
void edgetrace_attention(const float *rows, int64_t layers, int64_t heads, int64_t keys,
                         int64_t layer_stride, int64_t head_stride, float *mean, float *out) {
    float *entropy = out, *first = entropy + layers * heads;
    float *by_layer = first + layers * heads, *dispersion = by_layer + layers,
          *divergence = dispersion + layers;
    float *renyi2 = divergence + layers;
    for (int64_t layer = 0; layer < layers; layer++, entropy += heads, first += heads, renyi2 += heads) {
        double of_first = 0, sum = 0, squares = 0; /* the last two about the first head's entropy */
        double weights = 0;                        /* sum of a row's squared weights */
        memset(mean, 0, (keys + LANES) * sizeof(float));
        for (int64_t head = 0; head < heads; head++) {
            const float *row = rows + layer * layer_stride + head * head_stride;
            const double own = not_below_zero(-negentropy(row, keys, mean, &weights));
            if (head == 0) of_first = own;
            entropy[head] = own;
            first[head] = row[0];
            renyi2[head] = not_below_zero(-log(weights + 1.17549435e-38));
            sum += own - of_first;
            squares += (own - of_first) * (own - of_first);
        }
        const double beside = sum / heads, average = of_first + beside;
        by_layer[layer] = average;
        dispersion[layer] = sqrt(not_below_zero(squares / heads - beside * beside));
        divergence[layer] = not_below_zero(-negentropy_of_share(mean, keys, 1.0f / heads) - average);
    }
}

static inline float cosine(double product, double a, double b) {
    const double x = a * b > 0 ? product / (a * b) : product; /* a vector of zeros has a product of 0 */
    return x > 1 ? 1 : x < -1 ? -1 : x;
}

/* From residual streams [N, D] and those of the position before, which they replace, to norms [N], layer
 * deltas and cosines [N-1], token deltas and cosines [N], one behind the other. */
void edgetrace_hidden(const float *now, float *before, int64_t streams, int64_t width, float *out) {
    enum { OWN, UP, BELOW, SINCE, WITH, PAST, SUMS };
    float *norm = out, *layer_delta = norm + streams, *layer_cosine = layer_delta + streams - 1;
    float *token_delta = layer_cosine + streams - 1, *token_cosine = token_delta + streams;
    for (int64_t i = 0; i < streams; i++, now += width, before += width) {
        const float *below = i ? now - width : now;
        floats sums[SUMS] = {{0}};
        for (int64_t d = 0; d < width; d += LANES) {
            const floats h = load_next(now + d, width - d, 0), b = load_next(below + d, width - d, 0);
            const floats p = load_next(before + d, width - d, 0);
            sums[OWN] += h * h;
            sums[UP] += (h - b) * (h - b);
            sums[BELOW] += h * b;
            sums[SINCE] += (h - p) * (h - p);
            sums[WITH] += h * p;
            sums[PAST] += p * p;
        }
        memcpy(before, now, width * sizeof(float));
        norm[i] = sqrtf(total(sums[OWN]));
        token_delta[i] = sqrtf(total(sums[SINCE]));
        token_cosine[i] = cosine(total(sums[WITH]), norm[i], sqrtf(total(sums[PAST])));
        if (i) {
            layer_delta[i - 1] = sqrtf(total(sums[UP]));
            layer_cosine[i - 1] = cosine(total(sums[BELOW]), norm[i], norm[i - 1]);
        }
    }
}

/* Logits less the largest, no further down than where e^x is 0: -inf stays out of products without changing
 * a sum. */
static inline floats shifted(floats logits, float largest) {
    const floats x = logits - largest, floor = -200.0f - (floats){0};
    return larger(x, floor);
}

/* Adds to the sums of e^x and x e^x, and finds the largest x, of some shifted logits. */
static void weigh(const float *logits, int64_t count, float largest, double *weights, double *products,
                  float *second) {
    floats most = -INFINITY - (floats){0};
    for (int64_t start = 0; start < count; start += BLOCK) {
        floats sum = {0}, product = {0};
        for (int64_t i = start; i < count && i < start + BLOCK; i += LANES) {
            const floats x = shifted(load_next(logits + i, count - i, -INFINITY), largest);
            const floats weight = exponential(x);
            most = larger(x, most);
            sum += weight;
            product += weight * x;
        }
        *weights += total(sum);
        *products += total(product);
    }
    for (int i = 0; i < LANES; i++) *second = most[i] > *second ? most[i] : *second;
}

/* Sum of e^x (x - mean)^2. */
static double spread(const float *logits, int64_t count, float largest, float mean) {
    double all = 0;
    for (int64_t start = 0; start < count; start += BLOCK) {
        floats sum = {0};
        for (int64_t i = start; i < count && i < start + BLOCK; i += LANES) {
            const floats x = shifted(load_next(logits + i, count - i, -INFINITY), largest);
            sum += exponential(x) * (x - mean) * (x - mean);
        }
        all += total(sum);
    }
    return all;
}

/* Of logits [V] less the largest, which is at `top` and left out: sum of e^x, that of x e^x over the sum
 * with the top's 1, the second largest e^x, and the sum of e^x about that mean squared. Without the top the
 * digits of a nearly certain step are kept. */
void edgetrace_logits(const float *logits, int64_t size, int64_t top, double *out) {
    const float largest = logits[top], *after = logits + top + 1;
    double weights = 0, product = 0;
    float second = -INFINITY;
    weigh(logits, top, largest, &weights, &product, &second);
    weigh(after, size - top - 1, largest, &weights, &product, &second);
    const double mean = product / (1 + weights);
    out[0] = weights;
    out[1] = mean;
    out[2] = exp(second);
    out[3] = spread(logits, top, largest, mean) + spread(after, size - top - 1, largest, mean);
}
