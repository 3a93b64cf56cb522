/* Scores of a factorization: clip(mean + user bias + item bias + <user vector, item vector>) for pairs of indices.
 *
 * One pass over the pairs, no temporaries: a graph gathers both vectors, multiplies and sums them one after the other, which
 * moves about 2 KB of memory for each pair and pushes the rest of the server out of the processor's cache.
 *
 * Plain C without Python's headers; called through ctypes (serving/backends/factor_kernel.py).
 */

#include <stddef.h>
#include <stdint.h>

/* Rows ahead whose vectors are asked for: they lie anywhere in tables that need not fit a cache. */
enum { AHEAD = 6, LINE = 64 };

/* The widest vectors that the processor has, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

typedef struct {
    const float *users; /* [user_count][width]: a vector and its bias; row 0 is the unknown's */
    const float *items; /* [item_count][width]: likewise, but without the unknown: row r is index r + 1 */
    const float *nobody; /* [width] zeros: the unknown item */
    int64_t user_count, item_count, width;
    float mean, low, high;
} factors;

static inline void fetch(const float *row, int64_t width) {
    for (const char *at = (const char *)row, *end = (const char *)(row + width); at < end; at += LINE)
        __builtin_prefetch(at);
}

/* Returns -1, or the first pair with an index outside its table; scores from there on are not set. */
FOR_EACH_PROCESSOR
int64_t score_pairs(const factors *f, const int64_t *user_index, const int64_t *item_index, int64_t pairs, float *scores) {
    const int64_t last = f->width - 1;
    for (int64_t pair = 0; pair < pairs; pair++) {
        if ((uint64_t)user_index[pair] >= (uint64_t)f->user_count || (uint64_t)item_index[pair] > (uint64_t)f->item_count)
            return pair;
    }
    for (int64_t pair = 0; pair < pairs; pair++) {
        if (pair + AHEAD < pairs) {
            fetch(f->users + user_index[pair + AHEAD] * f->width, f->width);
            if (item_index[pair + AHEAD])
                fetch(f->items + (item_index[pair + AHEAD] - 1) * f->width, f->width);
        }
        const float *user = f->users + user_index[pair] * f->width;
        const float *item = item_index[pair] ? f->items + (item_index[pair] - 1) * f->width : f->nobody;
        float sum = 0;
        for (int64_t at = 0; at < last; at++)
            sum += user[at] * item[at];
        sum += f->mean + user[last] + item[last];
        scores[pair] = sum < f->low ? f->low : sum > f->high ? f->high : sum; /* NaN stays what it is */
    }
    return -1;
}
