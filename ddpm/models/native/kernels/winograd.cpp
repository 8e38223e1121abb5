// 3x3 convolutions with stride 1 and padding 1 on [N, H, W, C], by Winograd's minimal filtering F(m x m, 3 x 3)
// (Lavin & Gray 2016).  A tile of (m+2) x (m+2) pixels is transformed, multiplied with the transformed weights at each
// of its points by itself, which is a matrix product over all tiles and channels, and transformed back to m x m pixels.
#include <algorithm>
#include <omp.h>

#include "product.h"

namespace {

// Bytes of transformed tiles that a thread works on at once: a part of its second cache, where its weights stay there
// too; and where they do not, as much as it takes to read them seldom.
constexpr size_t CACHE = 500 << 10, LARGE_CACHE = 2600 << 10, LARGE_WEIGHTS = 1 << 20;

// The one-dimensional transforms; from and to are apart by their strides.  m = 2: at 0, 1, -1 and infinity.
template <int m> struct Transform;

template <> struct Transform<2> {
    static void input(const vec *d, int s, vec *r, int q) {
        r[0] = d[0] - d[2 * s];
        r[q] = d[s] + d[2 * s];
        r[2 * q] = d[2 * s] - d[s];
        r[3 * q] = d[s] - d[3 * s];
    }
    static void output(const vec *p, int s, vec *y, int q) {
        y[0] = p[0] + p[s] + p[2 * s];
        y[q] = p[s] - p[2 * s] - p[3 * s];
    }
    static void output_adjoint(const vec *y, int s, vec *p, int q) {
        p[0] = y[0];
        p[q] = y[0] + y[s];
        p[2 * q] = y[0] - y[s];
        p[3 * q] = -y[s];
    }
    static void filter(const vec *g, int s, vec *u, int q) {
        vec even = (g[0] + g[2 * s]) * 0.5f, odd = g[s] * 0.5f;
        u[0] = g[0];
        u[q] = even + odd;
        u[2 * q] = even - odd;
        u[3 * q] = g[2 * s];
    }
    static void filter_adjoint(const vec *u, int s, vec *g, int q) {
        vec even = (u[s] + u[2 * s]) * 0.5f;
        g[0] = u[0] + even;
        g[q] = (u[s] - u[2 * s]) * 0.5f;
        g[2 * q] = even + u[3 * s];
    }
};

// m = 4: at 0, +-1/sqrt(2), +-sqrt(2) and infinity.  Lavin's points, +-1 and +-2, lose twice as many digits.
constexpr float A = 0.70710678f, B = 1.41421356f, A3 = 0.35355339f, B3 = 2.82842712f;

template <> struct Transform<4> {
    static void input(const vec *d, int s, vec *r, int q) {
        vec a = d[4 * s] - 2.f * d[2 * s], b = A * d[3 * s] - B * d[s];
        vec c = d[4 * s] - 0.5f * d[2 * s], e = B * d[3 * s] - A * d[s];
        r[0] = d[0] - 2.5f * d[2 * s] + d[4 * s];
        r[q] = a + b;
        r[2 * q] = a - b;
        r[3 * q] = c + e;
        r[4 * q] = c - e;
        r[5 * q] = d[s] - 2.5f * d[3 * s] + d[5 * s];
    }
    static void output(const vec *p, int s, vec *y, int q) {
        vec a = p[s] + p[2 * s], b = p[s] - p[2 * s], c = p[3 * s] + p[4 * s], e = p[3 * s] - p[4 * s];
        y[0] = p[0] + a + c;
        y[q] = A * b + B * e;
        y[2 * q] = 0.5f * a + 2.f * c;
        y[3 * q] = A3 * b + B3 * e + p[5 * s];
    }
    static void output_adjoint(const vec *y, int s, vec *p, int q) {
        vec a = y[0] + 0.5f * y[2 * s], b = A * y[s] + A3 * y[3 * s];
        vec c = y[0] + 2.f * y[2 * s], e = B * y[s] + B3 * y[3 * s];
        p[0] = y[0];
        p[q] = a + b;
        p[2 * q] = a - b;
        p[3 * q] = c + e;
        p[4 * q] = c - e;
        p[5 * q] = y[3 * s];
    }
    static void filter(const vec *g, int s, vec *u, int q) {
        vec a = (g[0] + 0.5f * g[2 * s]) * (-2.f / 3), b = g[s] * (-2.f / 3 * A);
        vec c = (g[0] + 2.f * g[2 * s]) * (1.f / 6), e = g[s] * (1.f / 6 * B);
        u[0] = g[0];
        u[q] = a + b;
        u[2 * q] = a - b;
        u[3 * q] = c + e;
        u[4 * q] = c - e;
        u[5 * q] = g[2 * s];
    }
    static void filter_adjoint(const vec *u, int s, vec *g, int q) {
        vec a = (u[s] + u[2 * s]) * (-2.f / 3), c = (u[3 * s] + u[4 * s]) * (1.f / 6);
        g[0] = u[0] + a + c;
        g[q] = (u[2 * s] - u[s]) * (2.f / 3 * A) + (u[3 * s] - u[4 * s]) * (1.f / 6 * B);
        g[2 * q] = 0.5f * a + 2.f * c + u[5 * s];
    }
};

// What a convolution is of; channels are multiples of BLOCK.
struct Shape {
    int images, height, width, in, out;
};

// The share of one thread: some tiles, and some blocks of outputs.  Where tiles are few beside the weights, threads
// share out the outputs, so that each keeps its own part of the weights in its cache; else they share out the tiles.
struct Share {
    int tile_groups, tile_group, first, last;  // tiles
    int block, blocks;  // the first, and how many

    Share(const Shape &s, int tiles) {
        int threads = omp_get_num_threads(), thread = omp_get_thread_num(), all = s.out / BLOCK, out_groups = 1;
        if (tiles < 4 * s.out)
            for (int g = 1; g <= std::min(threads, all); g++)
                if (threads % g == 0) out_groups = g;
        tile_groups = threads / out_groups, tile_group = thread / out_groups;
        first = (long)tiles * tile_group / tile_groups, last = (long)tiles * (tile_group + 1) / tile_groups;
        int out_group = thread % out_groups;
        block = all * out_group / out_groups, blocks = all * (out_group + 1) / out_groups - block;
    }

    int channel() const { return block * BLOCK; }
    int channels() const { return blocks * BLOCK; }

    // Tiles that are worked on at once, a multiple of ROWS.
    int at_once(int in, int points) const {
        size_t each = sizeof(float) * points, cache = each * in * channels() > LARGE_WEIGHTS ? LARGE_CACHE : CACHE;
        int fit = std::max((int)(cache / (each * (in + channels()))) / ROWS, 1) * ROWS;
        int rounds = std::max((last - first + fit - 1) / fit, 1);  // as even as they can be
        return ((last - first + rounds - 1) / rounds + ROWS - 1) / ROWS * ROWS;
    }
};

template <int m> struct Tiles {
    static constexpr int EDGE = m + 2, POINTS = EDGE * EDGE;
    const Shape &s;
    int down, across, count;

    explicit Tiles(const Shape &shape) : s(shape) {
        down = (s.height + m - 1) / m, across = (s.width + m - 1) / m;
        count = s.images * down * across;
    }

    void place(int tile, int &n, int &y, int &x) const {
        n = tile / (down * across), y = tile / across % down * m, x = tile % across * m;
    }

    // Where pixel (y, x) of image n begins.
    size_t pixel(int n, int y, int x, int channels) const { return ((size_t)(n * s.height + y) * s.width + x) * channels; }

    // V[point][channel] at `apart` floats from point to point: a tile of [N, H, W, in], zero beyond its edges.
    template <class T> void in(const T *from, int tile, float *V, size_t apart) const {
        alignas(64) static const T zeros[WIDTH] = {};
        int n, y0, x0;
        place(tile, n, y0, x0);
        const T *at[EDGE][EDGE];
        for (int i = 0; i < EDGE; i++)
            for (int j = 0; j < EDGE; j++) {
                int y = y0 + i - 1, x = x0 + j - 1;
                bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
                at[i][j] = inside ? from + pixel(n, y, x, s.in) : nullptr;
            }
        for (int c = 0; c < s.in; c += WIDTH) {
            vec d[EDGE * EDGE], half[EDGE * EDGE];
            for (int j = 0; j < EDGE; j++) {
                for (int i = 0; i < EDGE; i++) d[i] = load(at[i][j] ? at[i][j] + c : zeros);
                Transform<m>::input(d, 1, half + j, EDGE);
            }
            for (int i = 0; i < EDGE; i++) {
                Transform<m>::input(half + i * EDGE, 1, d, 1);
                for (int j = 0; j < EDGE; j++) store(V + (i * EDGE + j) * apart + c, d[j]);
            }
        }
    }

    // Some channels of a tile of the result, from M[point][channel]; bias and add may be null.
    template <class T> void out(const float *M, size_t apart, int first, int channels, const float *bias, const T *add, T *to, int tile) const {
        int n, y0, x0;
        place(tile, n, y0, x0);
        int tall = std::min(m, s.height - y0), wide = std::min(m, s.width - x0);
        for (int c = 0; c < channels; c += WIDTH) {
            vec d[EDGE], half[m * EDGE], b = bias ? load(bias + first + c) : vec{};
            for (int j = 0; j < EDGE; j++) {
                for (int i = 0; i < EDGE; i++) d[i] = load(M + (i * EDGE + j) * apart + c);
                Transform<m>::output(d, 1, half + j, EDGE);
            }
            for (int i = 0; i < tall; i++) {
                vec y[m];
                Transform<m>::output(half + i * EDGE, 1, y, 1);
                size_t row = pixel(n, y0 + i, x0, s.out) + first + c;
                for (int j = 0; j < wide; j++, row += s.out) store(to + row, add ? y[j] + b + load(add + row) : y[j] + b);
            }
        }
    }

    // The adjoint of `out`: D[point][block][tile][BLOCK], `block` floats from block to block; adds the pixels to total.
    template <class T> void out_adjoint(const T *from, int first, int channels, int tile, float *D, size_t apart, size_t block, float *total) const {
        int n, y0, x0;
        place(tile, n, y0, x0);
        int tall = std::min(m, s.height - y0), wide = std::min(m, s.width - x0);
        for (int c = 0; c < channels; c += WIDTH) {
            vec y[m * m] = {}, half[EDGE * m], d[EDGE], t = load(total + c);
            for (int i = 0; i < tall; i++)
                for (int j = 0; j < wide; j++) {
                    y[i * m + j] = load(from + pixel(n, y0 + i, x0 + j, s.out) + first + c);
                    t += y[i * m + j];
                }
            store(total + c, t);
            float *to = D + c / BLOCK * block + c % BLOCK;
            for (int j = 0; j < m; j++) Transform<m>::output_adjoint(y + j, m, half + j, m);
            for (int i = 0; i < EDGE; i++) {
                Transform<m>::output_adjoint(half + i * m, 1, d, 1);
                for (int j = 0; j < EDGE; j++) store(to + (i * EDGE + j) * apart, d[j]);
            }
        }
    }
};

constexpr int INPUTS = 4;  // whose weights are transformed together
constexpr int AHEAD = 4;       // turns by which weights are fetched before they are transformed

// Fetches rows of `count` floats, `row` apart, into the cache: pieces too short for the processor to foresee.
template <bool to_write> void fetch(const float *from, int rows, size_t row, int count) {
    for (int l = 0; l < rows; l++, from += row)
        for (int k = 0; k < count; k += 64 / sizeof(float)) __builtin_prefetch(from + k, to_write);
}

// The weights of some inputs for a block of outputs from w [outputs, inputs, 3, 3]: to[input][tap][BLOCK].
// turned: of the convolution's adjoint in its input, where w is [in, out, 3, 3] and turned about its middle.  next: how
// many inputs further this thread's next ones are.
void taps_of(const Shape &s, const float *w, bool turned, int block, int first, int next, float *to) {
    size_t row = (size_t)(turned ? s.out : s.in) * 9;
    bool more = first + AHEAD * next < s.in;
    if (!turned) {
        const float *from = w + block * BLOCK * row + first * 9;
        if (more) fetch<false>(from + AHEAD * next * 9, BLOCK, row, INPUTS * 9);
        for (int l = 0; l < BLOCK; l += 4, from += 4 * row)
            for (int j = 0; j < INPUTS * 9; j += 4) transpose_four(from + j, row, to + j * BLOCK + l, BLOCK);
        return;
    }
    const float *from = w + first * row + block * BLOCK * 9;
    if (more) fetch<false>(from + AHEAD * next * row, INPUTS, row, BLOCK * 9);
    for (int i = 0; i < INPUTS; i++, from += row, to += 9 * BLOCK)
        for (int l = 0; l < BLOCK; l += 4) {
            for (int k = 0; k < 8; k += 4) transpose_four(from + l * 9 + k, 9, to + (8 - k) * BLOCK + l, -BLOCK);
            for (int j = l; j < l + 4; j++) to[j] = from[j * 9 + 8];
        }
}

// U[point][input][BLOCK] of INPUTS from `first` on in a block of outputs, `apart` floats from point to point.
template <int m> void weights_in(const Shape &s, const float *w, bool turned, int block, int first, int next, float *U, size_t apart) {
    constexpr int EDGE = m + 2;
    alignas(64) float taps[INPUTS * 9 * BLOCK];
    taps_of(s, w, turned, block, first, next, taps);
    for (int i = 0; i < INPUTS; i++)
        for (int v = 0; v < BLOCK; v += WIDTH) {
            vec g[9], half[EDGE * 3], u[EDGE];
            for (int k = 0; k < 9; k++) g[k] = load(taps + (i * 9 + k) * BLOCK + v);
            for (int j = 0; j < 3; j++) Transform<m>::filter(g + j, 3, half + j, 3);
            for (int a = 0; a < EDGE; a++) {
                Transform<m>::filter(half + a * 3, 1, u, 1);
                for (int b = 0; b < EDGE; b++) store(U + (a * EDGE + b) * apart + i * BLOCK + v, u[b]);
            }
        }
}

// dw [out, in, 3, 3] of INPUTS from `first` on and a block of outputs, from the sums[point][input][BLOCK] of each of
// `parts`, one and the next `part` floats apart, points `apart`.
template <int m> void weights_back(const Shape &s, const float *sums, size_t apart, int parts, size_t part, int block, int first, float *dw) {
    constexpr int EDGE = m + 2;
    size_t row = (size_t)s.in * 9;
    float *to = dw + block * BLOCK * row + first * 9;
    fetch<true>(to, BLOCK, row, INPUTS * 9);
    alignas(64) float taps[INPUTS * 9 * BLOCK];
    for (int i = 0; i < INPUTS; i++)
        for (int v = 0; v < BLOCK; v += WIDTH) {
            vec u[EDGE], half[3 * EDGE], g[9];
            for (int b = 0; b < EDGE; b++) {
                for (int a = 0; a < EDGE; a++) {
                    const float *from = sums + (a * EDGE + b) * apart + i * BLOCK + v;
                    u[a] = load(from);
                    for (int k = 1; k < parts; k++) u[a] += load(from + k * part);
                }
                Transform<m>::filter_adjoint(u, 1, half + b, EDGE);
            }
            for (int a = 0; a < 3; a++) Transform<m>::filter_adjoint(half + a * EDGE, 1, g + a * 3, 1);
            for (int k = 0; k < 9; k++) store(taps + (i * 9 + k) * BLOCK + v, g[k]);
        }
    for (int l = 0; l < BLOCK; l += 4, to += 4 * row)
        for (int j = 0; j < INPUTS * 9; j += 4) transpose_four(taps + j * BLOCK + l, BLOCK, to + j, row);
}

// U: room for [block][point][in][BLOCK], and a vector more for each point.
template <int m, class T>
void convolve(const Shape &s, const T *x, const float *w, bool turned, const float *bias, const T *add, T *y, float *U) {
    Tiles<m> tiles(s);
    constexpr int POINTS = Tiles<m>::POINTS;
    // A vector more from point to point: else all points would contend for the same few lines of the cache.
    size_t panel = (size_t)s.in * BLOCK + WIDTH;
#pragma omp parallel
    {
        Share own(s, tiles.count);
        int at_once = own.at_once(s.in, POINTS);
        // With all its tiles at once, and weights for itself, a thread takes one block of these after the other: they stay in its cache.
        bool in_turn = own.tile_groups == 1 && at_once >= own.last - own.first;
        int together = in_turn ? 1 : own.blocks, channels = together * BLOCK;
        size_t v_apart = (size_t)at_once * s.in + WIDTH, m_apart = (size_t)at_once * channels + WIDTH;
        float *V = scratch(POINTS * (v_apart + m_apart)), *M = V + POINTS * v_apart, *own_U = U + own.block * POINTS * panel;
        for (int done = 0; done < own.blocks; done += together) {
            for (int b = 0; b < together; b++)
                for (int i = own.tile_group * INPUTS, next = own.tile_groups * INPUTS; i < s.in; i += next)
                    weights_in<m>(s, w, turned, own.block + done + b, i, next, own_U + b * POINTS * panel + (size_t)i * BLOCK, panel);
            if (own.tile_groups > 1) {  // which is the same for all threads; whether they go in turn is not
#pragma omp barrier
            }
            for (int first = own.first; first < own.last; first += at_once) {
                int count = std::min(at_once, own.last - first);
                for (int t = 0; t < count && done == 0; t++) tiles.in(x, first + t, V + (size_t)t * s.in, v_apart);
                for (int p = 0; p < POINTS; p++) {
                    float *Vp = V + p * v_apart, *Mp = M + p * m_apart;
                    for (int b = 0; b < together; b++)
                        product_rows<COLUMNS, false>(count, s.in, Vp, s.in, 1, own_U + (b * POINTS + p) * panel, BLOCK, Mp + b * BLOCK, channels);
                }
                for (int t = 0; t < count; t++)
                    tiles.out(M + (size_t)t * channels, m_apart, own.channel() + done * BLOCK, channels, bias, add, y, first + t);
            }
        }
    }
}

// dw [out, in, 3, 3] and dbias [out] from x [N, H, W, in] and dy [N, H, W, out].  Each thread adds up the products of
// its own share, in room[thread]: sums[point][block][in][BLOCK], then biases.
template <int m, class T> void gradient(const Shape &s, const T *x, const T *dy, float *dw, float *dbias, float *room) {
    Tiles<m> tiles(s);
    constexpr int POINTS = Tiles<m>::POINTS;
    size_t panel = (size_t)s.in * BLOCK, whole = (size_t)POINTS * s.in * s.out + s.out;
#pragma omp parallel
    {
        Share own(s, tiles.count);
        int at_once = own.at_once(s.in, POINTS), channels = own.channels();
        size_t v_apart = (size_t)at_once * s.in + WIDTH, d_apart = (size_t)at_once * channels + WIDTH;
        size_t point = panel * own.blocks, d_block = (size_t)at_once * BLOCK;
        float *V = scratch(POINTS * (v_apart + d_apart)), *D = V + POINTS * v_apart;
        float *sums = room + omp_get_thread_num() * whole, *total = sums + POINTS * point;
        std::fill(total, total + channels, 0.f);
        if (own.first == own.last) std::fill(sums, sums + POINTS * point, 0.f);
        for (int first = own.first; first < own.last; first += at_once) {
            int count = std::min(at_once, own.last - first);
            for (int t = 0; t < count; t++) {
                tiles.in(x, first + t, V + (size_t)t * s.in, v_apart);
                tiles.out_adjoint(dy, own.channel(), channels, first + t, D + (size_t)t * BLOCK, d_apart, d_block, total);
            }
            for (int p = 0; p < POINTS; p++)
                for (int b = 0; b < own.blocks; b++) {
                    const float *Vp = V + p * v_apart, *Dp = D + p * d_apart + b * d_block;
                    float *to = sums + p * point + b * panel;
                    if (first == own.first)
                        product_rows<COLUMNS, false>(s.in, count, Vp, 1, s.in, Dp, BLOCK, to, BLOCK);
                    else
                        product_rows<COLUMNS, true>(s.in, count, Vp, 1, s.in, Dp, BLOCK, to, BLOCK);
                }
        }
        if (own.tile_groups > 1) {
#pragma omp barrier
        }
        // Threads with the same outputs are as many apart as there are groups of outputs.
        int groups = omp_get_num_threads() / own.tile_groups;
        const float *parts = room + omp_get_thread_num() % groups * whole;
        for (int b = 0; b < own.blocks; b++)
            for (int i = own.tile_group * INPUTS; i < s.in; i += own.tile_groups * INPUTS)
                weights_back<m>(s, parts + b * panel + (size_t)i * BLOCK, point, own.tile_groups, groups * whole, own.block + b, i, dw);
        for (int c = own.tile_group; c < channels; c += own.tile_groups) {
            float all = 0;
            for (int k = 0; k < own.tile_groups; k++) all += parts[k * groups * whole + POINTS * point + c];
            dbias[own.channel() + c] = all;
        }
    }
}

}  // namespace

extern "C" {

// Channels are to be multiples of it.
int winograd_block() { return BLOCK; }

// Threads that a kernel works with, at most; another OpenMP than torch's counts for itself.
void use_threads(int count) { omp_set_num_threads(count); }
int most_threads() { return omp_get_max_threads(); }

#define WINOGRAD(T, name)                                                                                                    \
    void winograd_##name(int m, int n, int h, int w, int in, int out, const T *x, const float *weights, int turned,          \
                         const float *bias, const T *add, T *y, float *room) {                                               \
        Shape s{n, h, w, in, out};                                                                                           \
        m == 2 ? convolve<2>(s, x, weights, turned, bias, add, y, room) : convolve<4>(s, x, weights, turned, bias, add, y, room); \
    }                                                                                                                        \
    void winograd_gradient_##name(int m, int n, int h, int w, int in, int out, const T *x, const T *dy, float *dw,           \
                                  float *dbias, float *room) {                                                               \
        Shape s{n, h, w, in, out};                                                                                           \
        m == 2 ? gradient<2>(s, x, dy, dw, dbias, room) : gradient<4>(s, x, dy, dw, dbias, room);                            \
    }
WINOGRAD(float, float32)
WINOGRAD(bf16, bfloat16)
}
