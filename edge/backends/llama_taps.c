/* The tap callback of llama_taps.py for passes whose nodes are known: the same checks and copies, without
 * entering Python. Where name, sizes and data lie in a tensor comes from Python's one description of it;
 * llama_callback.py has the structures. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { NAME = 64, FLOAT = 4 };

/* A node to stop at, and the residual stream to read there: the one that enters the layer, or for the last
 * one itself. */
struct stop {
    char *tensor, *stream;
    int64_t layer, stream_number; /* layer -1: there is no attention to read */
    char name[NAME], stream_name[NAME];
};

struct pass {
    bool (*python)(void *, bool, void *);       /* where set, it is asked instead: a pass that learns */
    struct stop *stops;                         /* in the order of the graph */
    int64_t count, next, failed; /* stops; those passed; 1 + the one that was not as learned */
    int64_t new_tokens, width;   /* of this pass; numbers in an attention row, 0 before the first */
    int64_t heads, stream_bytes, capacity;      /* of the model; numbers that `attention` has room for */
    char *attention, *hidden;                   /* rows [L, H, width] and residual streams [L+1, D] */
    int64_t name_at, data_at, sizes_at;         /* in a tensor */
};

static const int64_t *sizes_of(const struct pass *p, const char *tensor) {
    return (const int64_t *)(tensor + p->sizes_at);
}
static const char *data_of(const struct pass *p, const char *tensor) {
    return *(char *const *)(tensor + p->data_at);
}

static bool named(const struct pass *p, const char *tensor, const char *name) {
    return strncmp(tensor + p->name_at, name, NAME) == 0;
}

/* The last position's residual stream. */
static void read_stream(const struct pass *p, const struct stop *s) {
    const int64_t last = sizes_of(p, s->stream)[1] - 1;
    memcpy(p->hidden + s->stream_number * p->stream_bytes, data_of(p, s->stream) + last * p->stream_bytes,
           p->stream_bytes);
}

/* The last position's row of each head. */
static bool read_attention(struct pass *p, const struct stop *s) {
    const int64_t *sizes = sizes_of(p, s->tensor);
    const int64_t new = p->new_tokens, heads = p->heads, row = sizes[0] * FLOAT;
    if (p->width == 0) p->width = sizes[0];
    if (sizes[0] != p->width || sizes[1] != new || sizes[2] != heads ||
        (s->layer + 1) * heads * sizes[0] > p->capacity)
        return false;
    const char *from = data_of(p, s->tensor);
    char *to = p->attention + s->layer * heads * row;
    if (new == 1) memcpy(to, from, heads * row);
    else
        for (int64_t head = 0; head < heads; head++)
            memcpy(to + head * row, from + (head * new + new - 1) * row, row);
    return true;
}

/* ggml_backend_sched_eval_callback. With the data it always says "go on": anything else would leave the
 * graph uncomputed. */
bool edgetrace_tap(void *tensor, bool ask, void *data) {
    struct pass *p = data;
    if (p->python) return p->python(tensor, ask, 0);
    if (p->next >= p->count || tensor != p->stops[p->next].tensor) return !ask;
    if (ask) return true;
    const struct stop *s = &p->stops[p->next++];
    if (named(p, s->tensor, s->name) && named(p, s->stream, s->stream_name)) {
        read_stream(p, s);
        if (s->layer < 0 || read_attention(p, s)) return true;
    }
    p->failed = p->next--;
    p->count = 0; /* no more stops in this pass */
    return true;
}
