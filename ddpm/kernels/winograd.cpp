// 3x3 convolutions with stride 1 and padding 1 on [N, H, W, C], by Winograd's minimal filtering F(m x m, 3 x 3)
// (Lavin & Gray 2016).  A tile of (m+2) x (m+2) pixels is transformed, multiplied with the transformed weights at each
// of its points by itself, which is a matrix product over all tiles and channels, and transformed back to m x m pixels.
#include <algorithm>
#include <omp.h>

#include "vectors.h"

namespace {

constexpr int ROWS = 8;  // of a block of a matrix product that is summed in registers
constexpr int BLOCK = COLUMNS * WIDTH;  // floats in its columns
constexpr size_t CACHE = 900 << 10;  // bytes of transformed tiles that a thread works on at once: most of its second cache

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

// [rows, BLOCK] = or += A [rows, depth] B [depth, BLOCK]; the strides of A are free, and B lies densely.
template <int rows, bool add>
inline void product_block(const float *A, size_t row, size_t step, const float *B, float *C, size_t out, int depth) {
    vec acc[rows][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < COLUMNS; v++) acc[r][v] = add ? load(C + r * out + v * WIDTH) : vec{};
    for (int k = 0; k < depth; k++, A += step, B += BLOCK) {
        vec b[COLUMNS];
        for (int v = 0; v < COLUMNS; v++) b[v] = load(B + v * WIDTH);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < COLUMNS; v++) acc[r][v] += A[r * row] * b[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < COLUMNS; v++) store(C + r * out + v * WIDTH, acc[r][v]);
}

// What a convolution is of; channels are multiples of BLOCK.
struct Shape {
    int pictures, height, width, in, out;
};

template <int m> struct Tiles {
    static constexpr int EDGE = m + 2, POINTS = EDGE * EDGE;
    const Shape &s;
    int down, across, count;

    explicit Tiles(const Shape &shape) : s(shape) {
        down = (s.height + m - 1) / m, across = (s.width + m - 1) / m;
        count = s.pictures * down * across;
    }

    // Tiles that a thread works on at once, a multiple of ROWS.
    int at_once(int threads) const {
        int fit = CACHE / (sizeof(float) * POINTS * (s.in + s.out));
        int each = (count + threads - 1) / threads;
        fit = std::max(fit / ROWS, 1) * ROWS;
        int blocks = (each + fit - 1) / fit;  // as even as they can be
        return ((each + blocks - 1) / blocks + ROWS - 1) / ROWS * ROWS;
    }

    void place(int tile, int &n, int &y, int &x) const {
        n = tile / (down * across), y = tile / across % down * m, x = tile % across * m;
    }

    // V[point][channel] at `apart` floats from point to point: a tile of [N, H, W, C], zero beyond its edges.
    template <class T> void in(const T *from, int channels, int tile, float *V, size_t apart) const {
        alignas(64) static const T zeros[WIDTH] = {};
        int n, y0, x0;
        place(tile, n, y0, x0);
        const T *at[EDGE][EDGE];
        for (int i = 0; i < EDGE; i++)
            for (int j = 0; j < EDGE; j++) {
                int y = y0 + i - 1, x = x0 + j - 1;
                bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
                at[i][j] = inside ? from + ((size_t)(n * s.height + y) * s.width + x) * channels : nullptr;
            }
        for (int c = 0; c < channels; c += WIDTH) {
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

    // A tile of the result, from M[point][channel].
    template <class T> void out(const float *M, size_t apart, const float *bias, T *to, int tile) const {
        int n, y0, x0;
        place(tile, n, y0, x0);
        int tall = std::min(m, s.height - y0), wide = std::min(m, s.width - x0);
        for (int c = 0; c < s.out; c += WIDTH) {
            vec d[EDGE], half[m * EDGE], b = bias ? load(bias + c) : vec{};
            for (int j = 0; j < EDGE; j++) {
                for (int i = 0; i < EDGE; i++) d[i] = load(M + (i * EDGE + j) * apart + c);
                Transform<m>::output(d, 1, half + j, EDGE);
            }
            for (int i = 0; i < tall; i++) {
                vec y[m];
                Transform<m>::output(half + i * EDGE, 1, y, 1);
                T *row = to + ((size_t)(n * s.height + y0 + i) * s.width + x0) * s.out + c;
                for (int j = 0; j < wide; j++) store(row + (size_t)j * s.out, y[j] + b);
            }
        }
    }

    // The adjoint of `out`, into blocks of BLOCK channels: D[point][block][tile][BLOCK]; adds the pixels to `total`.
    template <class T> void out_adjoint(const T *from, int tile, float *D, size_t apart, size_t block, float *total) const {
        int n, y0, x0;
        place(tile, n, y0, x0);
        int tall = std::min(m, s.height - y0), wide = std::min(m, s.width - x0);
        for (int c = 0; c < s.out; c += WIDTH) {
            vec y[m * m] = {}, half[EDGE * m], d[EDGE], t = load(total + c);
            for (int i = 0; i < tall; i++)
                for (int j = 0; j < wide; j++) {
                    y[i * m + j] = load(from + ((size_t)(n * s.height + y0 + i) * s.width + x0 + j) * s.out + c);
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

// U[point][block of outputs][input][BLOCK] from w [outputs, inputs, 3, 3]; `turned`: of the convolution's adjoint in
// its input, where inputs and outputs change places and the 3x3 weights are turned about their middle.
template <int m> void transform_weights(const float *w, float *U, int in, int out, bool turned) {
    constexpr int EDGE = m + 2;
    size_t point = (size_t)in * out;
    size_t o_step = turned ? 9 : (size_t)in * 9, i_step = turned ? (size_t)out * 9 : 9;
#pragma omp parallel for schedule(static) collapse(2)
    for (int block = 0; block < out / BLOCK; block++)
        for (int i = 0; i < in; i++)
            for (int v = 0; v < COLUMNS; v++) {
                const float *from = w + (block * BLOCK + v * WIDTH) * o_step + i * i_step;
                vec g[9], half[EDGE * 3], u[EDGE];
                for (int k = 0; k < 9; k++)
                    for (int l = 0; l < WIDTH; l++) g[turned ? 8 - k : k][l] = from[l * o_step + k];
                for (int j = 0; j < 3; j++) Transform<m>::filter(g + j, 3, half + j, 3);
                float *to = U + ((size_t)block * in + i) * BLOCK + v * WIDTH;
                for (int a = 0; a < EDGE; a++) {
                    Transform<m>::filter(half + a * 3, 1, u, 1);
                    for (int b = 0; b < EDGE; b++) store(to + (a * EDGE + b) * point, u[b]);
                }
            }
}

template <int m, class T> void convolve(const Shape &s, const T *x, const float *U, const float *bias, T *y) {
    Tiles<m> tiles(s);
    constexpr int POINTS = Tiles<m>::POINTS;
#pragma omp parallel
    {
        int at_once = tiles.at_once(omp_get_num_threads());
        // An odd number of lines from point to point: else all points of a tile would contend for the same few.
        size_t v_apart = (size_t)at_once * s.in + WIDTH, m_apart = (size_t)at_once * s.out + WIDTH;
        float *V = scratch(POINTS * (v_apart + m_apart)), *M = V + POINTS * v_apart;
#pragma omp for schedule(static)
        for (int first = 0; first < tiles.count; first += at_once) {
            int count = std::min(at_once, tiles.count - first), padded = (count + ROWS - 1) / ROWS * ROWS;
            for (int t = 0; t < count; t++) tiles.in(x, s.in, first + t, V + (size_t)t * s.in, v_apart);
            for (int p = 0; p < POINTS; p++) {
                float *Vp = V + p * v_apart, *Mp = M + p * m_apart;
                std::fill(Vp + (size_t)count * s.in, Vp + (size_t)padded * s.in, 0.f);
                for (int block = 0; block < s.out / BLOCK; block++) {
                    const float *Up = U + ((size_t)p * s.out + (size_t)block * BLOCK) * s.in;
                    for (int t = 0; t < padded; t += ROWS)
                        product_block<ROWS, false>(Vp + (size_t)t * s.in, s.in, 1, Up, Mp + (size_t)t * s.out + block * BLOCK, s.out, s.in);
                }
            }
            for (int t = 0; t < count; t++) tiles.out(M + (size_t)t * s.out, m_apart, bias, y, first + t);
        }
    }
}

template <int m, class T> void gradient(const Shape &s, const T *x, const T *dy, float *dw, float *dbias, float *sums) {
    Tiles<m> tiles(s);
    constexpr int POINTS = Tiles<m>::POINTS, EDGE = m + 2;
    size_t point = (size_t)s.in * s.out, whole = POINTS * point + s.out;  // sums: [threads, whole]
    int used = 1;
#pragma omp parallel
    {
        int threads = omp_get_num_threads(), thread = omp_get_thread_num();
#pragma omp single
        used = threads;
        int at_once = tiles.at_once(threads);
        size_t v_apart = (size_t)at_once * s.in + WIDTH, d_apart = (size_t)at_once * s.out + WIDTH;
        float *V = scratch(POINTS * (v_apart + d_apart)), *D = V + POINTS * v_apart;
        float *own = sums + thread * whole, *total = own + POINTS * point;
        std::fill(total, total + s.out, 0.f);
        bool begun = false;
#pragma omp for schedule(static)
        for (int first = 0; first < tiles.count; first += at_once) {
            int count = std::min(at_once, tiles.count - first);
            for (int t = 0; t < count; t++) {
                tiles.in(x, s.in, first + t, V + (size_t)t * s.in, v_apart);
                tiles.out_adjoint(dy, first + t, D + (size_t)t * BLOCK, d_apart, (size_t)at_once * BLOCK, total);
            }
            for (int p = 0; p < POINTS; p++)
                for (int block = 0; block < s.out / BLOCK; block++) {
                    const float *Dp = D + p * d_apart + (size_t)block * at_once * BLOCK;
                    float *to = own + p * point + (size_t)block * s.in * BLOCK;
                    for (int c = 0; c < s.in; c += ROWS)
                        if (begun)
                            product_block<ROWS, true>(V + p * v_apart + c, 1, s.in, Dp, to + (size_t)c * BLOCK, BLOCK, count);
                        else
                            product_block<ROWS, false>(V + p * v_apart + c, 1, s.in, Dp, to + (size_t)c * BLOCK, BLOCK, count);
                }
            begun = true;
        }
        if (!begun) std::fill(own, own + POINTS * point, 0.f);
#pragma omp barrier
#pragma omp for schedule(static) collapse(2)
        for (int block = 0; block < s.out / BLOCK; block++)
            for (int c = 0; c < s.in; c++)
                for (int v = 0; v < COLUMNS; v++) {
                    size_t at = ((size_t)block * s.in + c) * BLOCK + v * WIDTH;
                    vec u[EDGE], half[3 * EDGE], g[9];
                    for (int b = 0; b < EDGE; b++) {
                        for (int a = 0; a < EDGE; a++) {
                            u[a] = load(sums + (a * EDGE + b) * point + at);
                            for (int k = 1; k < used; k++) u[a] += load(sums + k * whole + (a * EDGE + b) * point + at);
                        }
                        Transform<m>::filter_adjoint(u, 1, half + b, EDGE);
                    }
                    for (int a = 0; a < 3; a++) Transform<m>::filter_adjoint(half + a * EDGE, 1, g + a * 3, 1);
                    for (int l = 0; l < WIDTH; l++)
                        for (int k = 0; k < 9; k++)
                            dw[((size_t)(block * BLOCK + v * WIDTH + l) * s.in + c) * 9 + k] = g[k][l];
                }
    }
    for (int o = 0; o < s.out; o++) {
        dbias[o] = 0;
        for (int k = 0; k < used; k++) dbias[o] += sums[k * whole + POINTS * point + o];
    }
}

}  // namespace

extern "C" {

int winograd_block() { return BLOCK; }

void winograd_weights(int m, const float *w, float *U, int in, int out, int turned) {
    m == 2 ? transform_weights<2>(w, U, in, out, turned) : transform_weights<4>(w, U, in, out, turned);
}

void winograd_float32(int m, int n, int h, int w, int in, int out, const float *x, const float *U, const float *bias, float *y) {
    Shape s{n, h, w, in, out};
    m == 2 ? convolve<2>(s, x, U, bias, y) : convolve<4>(s, x, U, bias, y);
}

void winograd_bfloat16(int m, int n, int h, int w, int in, int out, const bf16 *x, const float *U, const float *bias, bf16 *y) {
    Shape s{n, h, w, in, out};
    m == 2 ? convolve<2>(s, x, U, bias, y) : convolve<4>(s, x, U, bias, y);
}

void winograd_gradient_float32(int m, int n, int h, int w, int in, int out, const float *x, const float *dy, float *dw, float *dbias, float *sums) {
    Shape s{n, h, w, in, out};
    m == 2 ? gradient<2>(s, x, dy, dw, dbias, sums) : gradient<4>(s, x, dy, dw, dbias, sums);
}

void winograd_gradient_bfloat16(int m, int n, int h, int w, int in, int out, const bf16 *x, const bf16 *dy, float *dw, float *dbias, float *sums) {
    Shape s{n, h, w, in, out};
    m == 2 ? gradient<2>(s, x, dy, dw, dbias, sums) : gradient<4>(s, x, dy, dw, dbias, sums);
}
}
