/* The passes of passes.py over one matrix [rows, columns] of float32 in one sweep each; passes.py is their reference.
 *
 * A call works on rows first_row..last_row-1 and columns first_column..last_column-1. keep and ridge hold one value a
 * row (by_row) or a column. Slice s, of group groups[s], is row s, or the inner columns from s * inner on; its sums are
 * added to sums[0..3][group], which have the length stride.
 */
#include <math.h>
#include <string.h>

#define TILE 1024 /* columns at a time: their sums stay in the first-level cache */
#define STRIP 64 /* rows whose sums are taken in float32, as the lanes of a vector sum do */
#define LANES 16 /* sums side by side, as many for narrower vectors, so that every CPU adds in one order */

typedef struct {
    float rest1, beta2, rest2, eps, size, left; /* rest: 1 - beta, size: of the step m / d, left: 1 - lr * decay */
} Adam;

typedef struct {
    float *p, *m, *v;
    const float *g, *keep, *ridge;
    const long long *groups;
    double *sums;
    long stride, columns, inner, by_row;
    long first_row, last_row, first_column, last_column;
    Adam adam;
} Task;

#define UPDATE(KEEP)                                                    \
    const float gj = g[j] * (KEEP);                                     \
    const float mj = m[j] + (gj - m[j]) * adam.rest1;                   \
    const float vj = adam.beta2 * v[j] + adam.rest2 * gj * gj;          \
    m[j] = mj;                                                          \
    v[j] = vj;                                                          \
    const float d = sqrtf(vj) + adam.eps;                               \
    const float pj = (p[j] - adam.size * mj / d) * adam.left;           \
    p[j] = pj;

#define READ                                    \
    const float d = sqrtf(v[j]) + adam.eps;     \
    const float pj = p[j];

#define TERMS(RIDGE)                            \
    const float y = pj * d;                     \
    const float q = 1 / (d + (RIDGE));          \
    const float x = y * q;                      \
    const float xx = x * x;                     \
    const float xxq = xx * q;

#define POINTERS(ROW, COLUMN)                               \
    const long at = (ROW) * t->columns + (COLUMN);          \
    float *restrict p = t->p + at;                          \
    float *restrict m = t->m + at;                          \
    float *restrict v = t->v + at;                          \
    const float *restrict g = t->g + at;                    \
    (void)m;                                                \
    (void)g;

#define ADD(LANE)           \
    a[0][LANE] += y * y;    \
    a[1][LANE] += xx;       \
    a[2][LANE] += xxq;      \
    a[3][LANE] += xxq * q;

/* Sums of rows, or of the part of them that lies in the call's columns. */
#define BY_ROW(BODY)                                                                        \
    for (long row = t->first_row; row < t->last_row; row++) {                               \
        const float ridge = t->ridge[row];                                                  \
        const float keep = t->keep ? t->keep[row] : 1;                                      \
        (void)keep;                                                                         \
        for (long column = t->first_column; column < t->last_column; column += TILE) {      \
            const long left = t->last_column - column, count = left < TILE ? left : TILE;   \
            const long full = count - count % LANES;                                        \
            float a[4][LANES] = {{0}};                                                      \
            POINTERS(row, column)                                                           \
            for (long start = 0; start < full; start += LANES) {                            \
                _Pragma("omp simd")                                                         \
                for (long lane = 0; lane < LANES; lane++) {                                 \
                    const long j = start + lane;                                            \
                    BODY                                                                    \
                    TERMS(ridge)                                                            \
                    ADD(lane)                                                               \
                }                                                                           \
            }                                                                               \
            for (long j = full; j < count; j++) {                                           \
                BODY                                                                        \
                TERMS(ridge)                                                                \
                ADD(j - full)                                                               \
            }                                                                               \
            double *sums = t->sums + t->groups[row];                                        \
            for (long which = 0; which < 4; which++)                                        \
                for (long lane = 0; lane < LANES; lane++)                                   \
                    sums[which * t->stride] += a[which][lane];                              \
        }                                                                                   \
    }

/* Sums of columns, a tile of them at a time. */
#define BY_COLUMN(BODY)                                                                             \
    float a[4][TILE];                                                                               \
    for (long column = t->first_column; column < t->last_column; column += TILE) {                  \
        const long count = t->last_column - column < TILE ? t->last_column - column : TILE;         \
        const float *restrict ridge = t->ridge + column;                                            \
        const float *restrict keep = t->keep ? t->keep + column : 0;                                \
        (void)keep;                                                                                 \
        for (long strip = t->first_row; strip < t->last_row; strip += STRIP) {                      \
            const long end = strip + STRIP < t->last_row ? strip + STRIP : t->last_row;             \
            memset(a, 0, sizeof a);                                                                 \
            for (long row = strip; row < end; row++) {                                              \
                POINTERS(row, column)                                                               \
                _Pragma("omp simd")                                                                 \
                for (long j = 0; j < count; j++) {                                                  \
                    BODY                                                                            \
                    TERMS(ridge[j])                                                                 \
                    ADD(j)                                                                          \
                }                                                                                   \
            }                                                                                       \
            long slice = column / t->inner, left = t->inner - column % t->inner;                    \
            for (long j = 0; j < count; slice++, left = t->inner) {                                 \
                const long last = j + left < count ? j + left : count;                              \
                double *sums = t->sums + t->groups[slice];                                          \
                for (; j < last; j++)                                                               \
                    for (long which = 0; which < 4; which++)                                        \
                        sums[which * t->stride] += a[which][j];                                     \
            }                                                                                       \
        }                                                                                           \
    }

/* The AdamW step alone. */
static void step(const Task *t)
{
    const Adam adam = t->adam;
    const long width = t->last_column - t->first_column;
    for (long row = t->first_row; row < t->last_row; row++) {
        POINTERS(row, t->first_column)
        const float *restrict keep = t->keep && !t->by_row ? t->keep + t->first_column : 0;
        const float all = t->keep && t->by_row ? t->keep[row] : 1;
        if (keep) {
            _Pragma("omp simd")
            for (long j = 0; j < width; j++) { UPDATE(keep[j]) }
        } else {
            _Pragma("omp simd")
            for (long j = 0; j < width; j++) { UPDATE(all) }
        }
    }
}

void update(const Task *t)
{
    const Adam adam = t->adam;
    if (!t->sums) {
        step(t);
    } else if (t->by_row) {
        BY_ROW(UPDATE(keep))
    } else if (t->keep) {
        BY_COLUMN(UPDATE(keep[j]))
    } else {
        BY_COLUMN(UPDATE(1.0f))
    }
}

/* The group sums alone. */
void sum(const Task *t)
{
    const Adam adam = t->adam;
    if (t->by_row) {
        BY_ROW(READ)
    } else {
        BY_COLUMN(READ)
    }
}

/* p *= d / (d + ridge) */
void shrink(const Task *t)
{
    const Adam adam = t->adam;
    const long width = t->last_column - t->first_column;
    for (long row = t->first_row; row < t->last_row; row++) {
        POINTERS(row, t->first_column)
        if (t->by_row && t->ridge[row] == 0) {
            continue;
        } else if (t->by_row && isinf(t->ridge[row])) {
            memset(p, 0, width * sizeof *p);
        } else if (t->by_row) {
            const float ridge = t->ridge[row];
            _Pragma("omp simd")
            for (long j = 0; j < width; j++) { READ p[j] = pj * (d / (d + ridge)); }
        } else {
            const float *restrict ridge = t->ridge + t->first_column;
            _Pragma("omp simd")
            for (long j = 0; j < width; j++) { READ p[j] = pj * (d / (d + ridge[j])); }
        }
    }
}
