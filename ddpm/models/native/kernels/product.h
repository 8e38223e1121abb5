// Products of small matrices that lie in the cache, summed in registers.
#pragma once
#include <algorithm>

#include "vectors.h"

constexpr int BLOCK = COLUMNS * WIDTH;  // floats in its columns

// C [rows, columns * WIDTH] = or += A [rows, depth] B [depth, columns * WIDTH].  Element (r, k) of A lies at
// r * row + k * step; rows of B and C are b_row and c_row floats apart.
template <int rows, int columns, bool add>
inline void product_block(int depth, const float *A, size_t row, size_t step, const float *B, size_t b_row, float *C, size_t c_row) {
    vec acc[rows][columns];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < columns; v++) acc[r][v] = add ? load(C + r * c_row + v * WIDTH) : vec{};
    for (int k = 0; k < depth; k++, A += step, B += b_row) {
        vec b[columns];
        for (int v = 0; v < columns; v++) b[v] = load(B + v * WIDTH);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < columns; v++) acc[r][v] += A[r * row] * b[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < columns; v++) store(C + r * c_row + v * WIDTH, acc[r][v]);
}

// The same for fewer rows than a block has.
template <int most, int columns, bool add>
inline void product_rest(int rows, int depth, const float *A, size_t row, size_t step, const float *B, size_t b_row, float *C, size_t c_row) {
    if constexpr (most > 0) {
        if (rows == most)
            product_block<most, columns, add>(depth, A, row, step, B, b_row, C, c_row);
        else
            product_rest<most - 1, columns, add>(rows, depth, A, row, step, B, b_row, C, c_row);
    }
}

// The same for any number of rows, and a single block of columns.
template <int columns, bool add>
inline void product_rows(int rows, int depth, const float *A, size_t row, size_t step, const float *B, size_t b_row, float *C, size_t c_row) {
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS) product_block<ROWS, columns, add>(depth, A + r * row, row, step, B, b_row, C + r * c_row, c_row);
    product_rest<ROWS - 1, columns, add>(rows - r, depth, A + r * row, row, step, B, b_row, C + r * c_row, c_row);
}

// The same for `width` columns, a multiple of WIDTH, with B in panels: [width / BLOCK][depth][BLOCK], the last one
// narrower where width is no multiple of BLOCK.
template <bool add>
inline void product(int rows, int width, int depth, const float *A, size_t row, size_t step, const float *panels, float *C, size_t c_row) {
    int c = 0;
    for (; c + BLOCK <= width; c += BLOCK)
        product_rows<COLUMNS, add>(rows, depth, A, row, step, panels + (size_t)c * depth, BLOCK, C + c, c_row);
    size_t narrow = width - c;
    for (int v = 0; c < width; c += WIDTH, v += WIDTH)
        product_rows<1, add>(rows, depth, A, row, step, panels + (size_t)(width - narrow) * depth + v, narrow, C + c, c_row);
}

// Where element (depth k, column c) of a matrix of `width` columns lies among its panels.
inline size_t in_panels(int k, int c, int width, int depth) {
    int first = c / BLOCK * BLOCK, wide = std::min(BLOCK, width - first);
    return (size_t)first * depth + (size_t)k * wide + (c - first);
}
