// The transformer's forward pass over a few tokens on a CPU, in one call: what llm/model.py computes, at the speed of
// memory. library.py compiles this file once; model.py checks the arguments and calls `forward`.
//
// Worth knowing:
//
// - One token needs every weight once, so reading them is the whole cost. Each weight is read once for all rows
//   (tokens) of the call, by threads that each own a range of every matrix's rows.
// - Weights stay in the row-major layout that torch has them in, so that both use the same memory. They are fp32, bf16,
//   int8 (a scale per row) or int4 (a scale per group; see `Matrix`). Activations are rounded to bf16 in front of a
//   matrix that is not fp32, and sums are always kept in fp32, as is the residual stream.
// - A bf16 matrix may come in a packed form too, the same numbers in 12 bits each. It is taken for few rows, when memory
//   is what a step waits for.
// - All threads run the whole function and meet where one needs the others' results, four times per layer if they can
//   share out whole heads, else six. What is short, such as a norm, every thread computes for itself instead.
// - Vectors are those of the compiler (GCC and Clang), as wide as the processor's: wider ones would live in memory.
//   Intrinsics are used only where GCC makes no use of an instruction: to widen small integers, and with AVX-512 for bf16
//   dot products and int4 look-up. Processors without such dot products multiply floats, rounded to bf16 all the same.
//
// Shapes: B sequences, T new tokens of each, R = B * T rows, D d_model, H n_heads, K n_kv_heads, h head_dim, F d_ff,
// V vocabulary; matrices are (outputs, inputs).

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else  // SSE, NEON
constexpr int64_t LANES = 4;
#endif
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

#ifdef __AVX512BF16__
constexpr bool HAS_DOT = true;
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t bf16x32 __attribute__((vector_size(64)));
#else
constexpr bool HAS_DOT = false;
#endif

enum Format : int64_t { F32, BF16, INT8, INT4, PACKED };  // PACKED: a BF16 matrix's other form, never its `format`

}  // namespace

extern "C" {

// A weight matrix (n, k), row-major. INT8: scales (n,). INT4: value (nibble - 8) * scale; 64 weights in 32 bytes, of
// which byte j holds weight j in its low and weight j + 32 in its high half; scales (n, k / 32) in bf16.
struct Matrix {
    int64_t format, n, k;
    const void *data, *scales;
    const struct Packed* packed;  // null, or the packed form of a BF16 matrix
};

// See bf16_packing.py
struct Packed {
    const void* data;
    int64_t base, n_exceptions;
    const struct Exception* exceptions;
};

struct Exception {
    int32_t row, column;
    float weight;
};

struct Layer {
    const float *attention_norm, *feed_forward_norm;
    const float *q_norm, *k_norm, *q_bias, *k_bias, *v_bias;  // may be null
    int64_t has_rope;
    Matrix q, k, v, o, gate, up, down;
};

struct Model {
    int64_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, context;
    int64_t norm_after, joint_qk_norm;  // as in llm/model.py
    double norm_eps;
    const float* rope;  // (at least the cache's positions, h): cosines, then sines
    const float* norm;
    Matrix embedding, head;
    const Layer* layers;
};

// Keys and values as rows of h numbers, F32, BF16 or INT8 (with a scale per row); an array for each layer. The row of a
// head and a sequence's position is head * head_stride + slots[sequence * max_length + position].
struct Cache {
    int64_t format, n_sequences, max_length, head_stride;
    void *const *k, *const *v;
    float *const *k_scales, *const *v_scales;
    const int64_t *slots, *lengths;  // lengths (B,): how many positions of each sequence are filled
};

}  // extern "C"

namespace {

constexpr int64_t bits(int64_t format) {
    return format == F32 ? 32 : format == BF16 ? 16 : format == PACKED ? 12 : format == INT8 ? 8 : 4;
}

template <class T> T load(const void* p) {
    T value;
    memcpy(&value, p, sizeof(T));
    return value;
}

template <class T> void store(void* p, T value) { memcpy(p, &value, sizeof(T)); }

float sum(floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
    __m128 x = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
#else
    float total = 0;
    for (int64_t i = 0; i < LANES; i++) total += v[i];
    return total;
#endif
}

float to_float(uint16_t bf16) {
    uint32_t bits = uint32_t(bf16) << 16;
    return load<float>(&bits);
}

uint16_t to_bf16(float x) {  // to nearest, ties to even
    uint32_t bits = load<uint32_t>(&x);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// LANES integers of 8 or 16 bits as such of 32. What the upper half of those of 16 becomes does not matter.
template <class T> ints widened(const void* p) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 1) return (ints)_mm512_cvtepi8_epi32(load<__m128i>(p));
    else return (ints)_mm512_cvtepu16_epi32(load<__m256i>(p));
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 1) return (ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
    else return (ints)_mm256_cvtepu16_epi32(load<__m128i>(p));
#else
    T small[LANES];
    int32_t wide[LANES];
    memcpy(small, p, sizeof(small));
    for (int64_t i = 0; i < LANES; i++) wide[i] = small[i];
    return load<ints>(wide);
#endif
}

// LANES numbers of a matrix or cache
template <int FORMAT> floats numbers(const void* p) {
    if constexpr (FORMAT == F32) return load<floats>(p);
    else if constexpr (FORMAT == BF16) return (floats)(widened<uint16_t>(p) << 16);
    else return __builtin_convertvector(widened<int8_t>(p), floats);
}

#ifdef __AVX512BF16__
bf16x32 small_ints(const void* p) {  // 32 of 8 bits, to bf16, in which they are exact
    return (bf16x32)_mm512_cvtne2ps_pbh((__m512)numbers<INT8>((const char*)p + 16), (__m512)numbers<INT8>(p));
}

// acc + a * b, pairs of neighbors added into one lane
floats dot(floats acc, bf16x32 a, bf16x32 b) {
    return (floats)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}

// 64 int4 weights (32 bytes) as integers in bf16
void nibbles(const void* p, bf16x32& low, bf16x32& high) {
    // Values -8..7 twice, as the look-up takes five bits of its index and only four are the weight.
    alignas(64) static constexpr uint16_t VALUES[32] = {
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
        0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
        0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
    __m512i table = _mm512_load_si512(VALUES), bytes = _mm512_cvtepu8_epi16(load<__m256i>(p));
    low = (bf16x32)_mm512_permutexvar_epi16(bytes, table);
    high = (bf16x32)_mm512_permutexvar_epi16(_mm512_srli_epi16(bytes, 4), table);
}

// 64 packed weights (96 bytes) as bf16
void unpack(const void* p, int64_t base, bf16x32& first, bf16x32& second) {
    const __m512i exponents = _mm512_cvtepu8_epi16(load<__m256i>((const char*)p + 64));
    const __m512i smallest = _mm512_set1_epi16(int16_t(base << 7));
    auto numbers = [&](const void* bytes, __m512i exponents) {
        // Widened as a signed number, a byte has sign and mantissa where bf16 has them; the exponent goes between.
        const __m512i wide = _mm512_cvtepi8_epi16(load<__m256i>(bytes)), kept = _mm512_set1_epi16((int16_t)0x807f);
        constexpr int SELECT = 0xca;  // bits of the second where the first has a one, else of the third
        return (bf16x32)_mm512_add_epi16(_mm512_ternarylogic_epi32(kept, wide, exponents, SELECT), smallest);
    };
    first = numbers(p, _mm512_and_si512(_mm512_slli_epi16(exponents, 7), _mm512_set1_epi16(0x780)));
    second = numbers((const char*)p + 32, _mm512_slli_epi16(exponents, 3));
}
#endif

// Whether the input of a matrix is made of floats, be they rounded to bf16, or of bf16
constexpr bool takes_floats(int64_t format) { return format == F32 || !HAS_DOT; }

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t TILE = 4;      // matrix rows, and rows of x, that share loads when x has several rows
#else
constexpr int64_t TILE = 2;      // half the registers
#endif
constexpr int64_t MAX_PACKED_ROWS = 4;  // with more, unpacking weights costs more than reading them
constexpr int64_t KEYS_AHEAD = 16;  // a head's keys are too short a stream for the processor to foresee
constexpr int64_t AHEAD = 8192;  // bytes: several rows at a time, or steps of 96 bytes, are not foreseen either

// Rows n to n + NB of a matrix times RB rows of x (k numbers each): y[r * m.n + n]. x is as `takes_floats` says.
// All loops over NB, RB and CHAINS are unrolled, so that the sums stay in registers.
template <int FORMAT, int NB, int RB>
__attribute__((always_inline)) inline void tile(const Matrix& m, int64_t n, const void* x, float* y) {
    constexpr int64_t WIDTH = FORMAT == INT4 || FORMAT == PACKED ? 64 : takes_floats(FORMAT) ? LANES : 32;  // added at once
    constexpr int64_t CHAINS = std::max<int64_t>(1, 32 / LANES / (NB * RB));  // sums that do not wait for each other
    const int64_t k = m.k, row = k * bits(FORMAT) / 8;
    const char* w = (const char*)(FORMAT == PACKED ? m.packed->data : m.data) + n * row;
    const float* a = (const float*)x;
    const uint16_t* b = (const uint16_t*)x;
    floats acc[NB][RB][CHAINS] = {};
    auto add = [&](int64_t i, int64_t chain) __attribute__((always_inline)) {  // the products of the vectors at i
#pragma GCC unroll 8
        for (int64_t t = 0; t < NB; t++) {
            const char* p = w + t * row + i * bits(FORMAT) / 8;
            if (NB > 1 || FORMAT == PACKED) __builtin_prefetch(w + (i * NB + t * WIDTH) * bits(FORMAT) / 8 + AHEAD);
            // INT4: two scales side by side, one for the low and one for the high halves of 32 bytes
            const uint16_t* scales = (const uint16_t*)m.scales + ((n + t) * k + i) / 32;
            if constexpr (takes_floats(FORMAT) && FORMAT != INT4) {
                const floats weights = numbers<FORMAT>(p);
#pragma GCC unroll 8
                for (int64_t r = 0; r < RB; r++) acc[t][r][chain] += weights * load<floats>(a + r * k + i);
            } else if constexpr (takes_floats(FORMAT)) {
                floats low[RB] = {}, high[RB] = {};
#pragma GCC unroll 8
                for (int64_t j = 0; j < 32; j += LANES) {
                    const ints both = widened<int8_t>(p + j);
                    const floats first = __builtin_convertvector((both & 15) - 8, floats);
                    const floats second = __builtin_convertvector((both >> 4 & 15) - 8, floats);
#pragma GCC unroll 8
                    for (int64_t r = 0; r < RB; r++) {
                        low[r] += first * load<floats>(a + r * k + i + j);
                        high[r] += second * load<floats>(a + r * k + i + j + 32);
                    }
                }
#pragma GCC unroll 8
                for (int64_t r = 0; r < RB; r++)
                    acc[t][r][chain] += to_float(scales[0]) * low[r] + to_float(scales[1]) * high[r];
            } else {
#ifdef __AVX512BF16__
                if constexpr (FORMAT == INT4) {
                    bf16x32 low, high;
                    nibbles(p, low, high);
                    const u32x16 pair = load<uint32_t>(scales) - u32x16{};  // each is the upper half of a float
                    const floats first = (floats)(pair << 16), second = (floats)(pair & 0xffff0000u);
#pragma GCC unroll 8
                    for (int64_t r = 0; r < RB; r++) {
                        acc[t][r][chain] += first * dot(floats{}, low, load<bf16x32>(b + r * k + i));
                        acc[t][r][chain] += second * dot(floats{}, high, load<bf16x32>(b + r * k + i + 32));
                    }
                } else if constexpr (FORMAT == PACKED) {
                    bf16x32 first, second;
                    unpack(p, m.packed->base, first, second);
#pragma GCC unroll 8
                    for (int64_t r = 0; r < RB; r++) {
                        acc[t][r][chain] = dot(acc[t][r][chain], first, load<bf16x32>(b + r * k + i));
                        acc[t][r][chain] = dot(acc[t][r][chain], second, load<bf16x32>(b + r * k + i + 32));
                    }
                } else {
                    bf16x32 weights;
                    if constexpr (FORMAT == BF16) weights = load<bf16x32>(p);
                    else weights = small_ints(p);
#pragma GCC unroll 8
                    for (int64_t r = 0; r < RB; r++)
                        acc[t][r][chain] = dot(acc[t][r][chain], weights, load<bf16x32>(b + r * k + i));
                }
#endif
            }
        }
    };
    int64_t i = 0;
    for (; i + WIDTH * CHAINS <= k; i += WIDTH * CHAINS)
#pragma GCC unroll 8
        for (int64_t chain = 0; chain < CHAINS; chain++) add(i + chain * WIDTH, chain);
    if constexpr (CHAINS > 1)
        for (; i + WIDTH <= k; i += WIDTH) add(i, 0);
#pragma GCC unroll 8
    for (int64_t t = 0; t < NB; t++)
#pragma GCC unroll 8
        for (int64_t r = 0; r < RB; r++) {
#pragma GCC unroll 8
            for (int64_t chain = 1; chain < CHAINS; chain++) acc[t][r][0] += acc[t][r][chain];
            float total = sum(acc[t][r][0]);
            const char* p = w + t * row;
            for (int64_t j = i; j < k; j++) {  // never for INT4 and PACKED: k is a multiple of 64
                const float input = takes_floats(FORMAT) ? a[r * k + j] : to_float(b[r * k + j]);
                if constexpr (FORMAT == F32) total += load<float>(p + j * 4) * input;
                if constexpr (FORMAT == BF16) total += to_float(load<uint16_t>(p + j * 2)) * input;
                if constexpr (FORMAT == INT8) total += load<int8_t>(p + j) * input;
            }
            y[r * m.n + n + t] = FORMAT == INT8 ? total * ((const float*)m.scales)[n + t] : total;
        }
}

// Rows n to n + NB of a matrix times all R rows of x, R > 1
template <int FORMAT, int NB>
void tiles(const Matrix& m, int64_t n, const char* x, int64_t R, float* y) {
    constexpr int64_t size = takes_floats(FORMAT) ? 4 : 2;
    int64_t r = 0;
    for (; r + TILE <= R; r += TILE) tile<FORMAT, NB, TILE>(m, n, x + r * m.k * size, y + r * m.n);
    for (; r + 2 <= R; r += 2) tile<FORMAT, NB, 2>(m, n, x + r * m.k * size, y + r * m.n);
    if (r < R) tile<FORMAT, NB, 1>(m, n, x + r * m.k * size, y + r * m.n);
}

// Rows `begin` to `end` of a matrix times all R rows of x: y (R, n). If x is one row, it takes the matrix's rows one
// after the other, as a single stream is what memory gives fastest, or in pairs if unpacking weights costs more than
// reading them. If there are more, loading x would cost most, and four rows at a time share the loads.
template <int FORMAT>
void multiply(const Matrix& m, int64_t begin, int64_t end, const void* x, int64_t R, float* y) {
    int64_t n = begin;
    if (R == 1) {
        constexpr int64_t PAIR = FORMAT == INT8 || FORMAT == INT4 ? 2 : 1;
        for (; n + PAIR <= end; n += PAIR) tile<FORMAT, PAIR, 1>(m, n, x, y);
        for (; n < end; n++) tile<FORMAT, 1, 1>(m, n, x, y);
    }
    for (; n + TILE <= end; n += TILE) tiles<FORMAT, TILE>(m, n, (const char*)x, R, y);
    for (; n < end; n++) tiles<FORMAT, 1>(m, n, (const char*)x, R, y);
}

#ifdef __AVX512BF16__
void multiply_packed(const Matrix& m, int64_t begin, int64_t end, const uint16_t* x, int64_t R, float* y) {
    multiply<PACKED>(m, begin, end, x, R, y);
    const Exception *e = m.packed->exceptions, *last = e + m.packed->n_exceptions;
    const float smallest = to_float(uint16_t(m.packed->base << 7));
    e = std::lower_bound(e, last, begin, [](const Exception& e, int64_t row) { return e.row < row; });
    for (; e < last && e->row < end; e++) {
        const float difference = e->weight - std::copysign(smallest, e->weight);
        for (int64_t r = 0; r < R; r++) y[r * m.n + e->row] += difference * to_float(x[r * m.k + e->column]);
    }
}
#endif

void multiply(const Matrix& m, int64_t begin, int64_t end, const void* x, int64_t R, float* y) {
#ifdef __AVX512BF16__
    if (m.packed && R <= MAX_PACKED_ROWS) return multiply_packed(m, begin, end, (const uint16_t*)x, R, y);
#endif
    switch (m.format) {
        case F32: return multiply<F32>(m, begin, end, x, R, y);
        case BF16: return multiply<BF16>(m, begin, end, x, R, y);
        case INT8: return multiply<INT8>(m, begin, end, x, R, y);
        default: return multiply<INT4>(m, begin, end, x, R, y);
    }
}

// n numbers as a matrix of that format takes them
void as_input(int64_t format, const float* x, int64_t n, void* y) {
    if (format == F32) memcpy(y, x, n * sizeof(float));
    else if (takes_floats(format))
        for (int64_t i = 0; i < n; i++) ((float*)y)[i] = to_float(to_bf16(x[i]));
    else
        for (int64_t i = 0; i < n; i++) ((uint16_t*)y)[i] = to_bf16(x[i]);
}

void* row_of(void* x, int64_t format, int64_t row, int64_t width) {
    return (char*)x + row * width * (takes_floats(format) ? 4 : 2);
}

void rms_norm(const float* x, const float* weight, int64_t n, double eps, float* y) {
    floats parts = {};
    int64_t done = 0;
    for (; done + LANES <= n; done += LANES) parts += load<floats>(x + done) * load<floats>(x + done);
    float squares = sum(parts);
    for (; done < n; done++) squares += x[done] * x[done];
    float scale = 1 / std::sqrt(squares / float(n) + float(eps));
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * weight[i];
}

// e^x for the whole range of float32, to some 1e-7: 2^(i + f) with a polynomial for 2^f, |f| <= 1/2
floats exponential(floats x) {
    x *= 1.44269504f;
    x = x < -126.0f ? floats{} - 126.0f : x;
    x = x > 127.0f ? floats{} + 127.0f : x;
    floats shifted = x + 12582912.0f;  // 1.5 * 2^23: the integer is in the lowest bits now
    floats f = x - (shifted - 12582912.0f);
    floats p = 0.00133335581f + f * 0.000154035304f;
    p = 0.0555041087f + f * (0.00961812911f + f * p);
    p = 1.0f + f * (0.693147181f + f * (0.240226507f + f * p));
    return p * (floats)(((ints)shifted + 127) << 23);
}

// A head of a query or key: optional norm, then, if the layer does so, turned by its position's angles
// (llm.model.rotate)
void norm_and_rotate(float* x, const float* norm, const Model& m, int64_t has_rope, int64_t position) {
    const int64_t h = m.head_dim;
    if (norm && !m.joint_qk_norm) rms_norm(x, norm, h, m.norm_eps, x);
    if (!has_rope) return;
    const float *cos = m.rope + position * h, *sin = cos + h / 2;
    for (int64_t i = 0; i < h / 2; i++) {
        float a = x[i], b = x[i + h / 2];
        x[i] = a * cos[i] - b * sin[i];
        x[i + h / 2] = b * cos[i] + a * sin[i];
    }
}

void store_row(int64_t format, void* data, float* scales, int64_t row, const float* x, int64_t h) {
    if (format == F32) memcpy((float*)data + row * h, x, h * sizeof(float));
    else if (format == BF16)
        for (int64_t i = 0; i < h; i++) ((uint16_t*)data)[row * h + i] = to_bf16(x[i]);
    else {
        float largest = 0;
        for (int64_t i = 0; i < h; i++) largest = std::max(largest, std::fabs(x[i]));
        scales[row] = largest / 127;
        float inverse = largest > 0 ? 127 / largest : 0;
        for (int64_t i = 0; i < h; i++) ((int8_t*)data)[row * h + i] = int8_t(std::nearbyint(x[i] * inverse));
    }
}

// Keys or values of one head
struct Rows {
    const char* data;
    const float* scales;
};

// Attention of the G queries (G, h) of one key-value head over n keys: out (G, h). `scores` has room for (G, n), n
// rounded up to 16. Values are summed WIDTH numbers at a time.
template <int FORMAT, int WIDTH>
void attend(Rows keys, Rows values, const int64_t* slots, int64_t n, const float* q, int64_t G, int64_t h,
            float* scores, float* out) {
    constexpr int64_t size = bits(FORMAT) / 8;
    const float scale = 1 / std::sqrt(float(h));
    const int64_t stride = (n + 15) / 16 * 16;
    for (int64_t j = 0; j < n; j++) {
        const char* key = keys.data + slots[j] * h * size;
        const char* ahead = keys.data + slots[std::min(j + KEYS_AHEAD, n - 1)] * h * size;
        for (int64_t i = 0; i < h * size; i += 64) __builtin_prefetch(ahead + i);
        float unit = FORMAT == INT8 ? scale * keys.scales[slots[j]] : scale;
        for (int64_t g = 0; g < G; g++) {
            floats acc = {};
            for (int64_t i = 0; i < h; i += LANES) acc += load<floats>(q + g * h + i) * numbers<FORMAT>(key + i * size);
            scores[g * stride + j] = sum(acc) * unit;
        }
    }
    for (int64_t g = 0; g < G; g++) {
        float* s = scores + g * stride;
        std::fill(s + n, s + stride, -INFINITY);
        floats peaks = load<floats>(s), total = {};
        for (int64_t j = LANES; j < stride; j += LANES) {
            const floats x = load<floats>(s + j);
            peaks = x > peaks ? x : peaks;
        }
        const float largest = *std::max_element((const float*)&peaks, (const float*)&peaks + LANES);
        for (int64_t j = 0; j < stride; j += LANES) {
            floats weights = exponential(load<floats>(s + j) - largest);
            store(s + j, weights);
            total += weights;
        }
        const float inverse = 1 / sum(total);
        if constexpr (FORMAT == INT8)
            for (int64_t j = 0; j < n; j++) s[j] *= values.scales[slots[j]];
        for (int64_t i = 0; i < h; i += WIDTH) {
            floats acc[WIDTH / LANES] = {};
            for (int64_t j = 0; j < n; j++) {
                const char* value = values.data + (slots[j] * h + i) * size;
                const char* ahead = values.data + (slots[std::min(j + KEYS_AHEAD, n - 1)] * h + i) * size;
                for (int64_t b = 0; b < WIDTH * size; b += 64) __builtin_prefetch(ahead + b);
#pragma GCC unroll 16
                for (int64_t b = 0; b < WIDTH / LANES; b++) acc[b] += s[j] * numbers<FORMAT>(value + LANES * b * size);
            }
#pragma GCC unroll 16
            for (int64_t b = 0; b < WIDTH / LANES; b++) store(out + g * h + i + LANES * b, acc[b] * inverse);
        }
    }
}

template <int WIDTH> constexpr auto attend_in(int64_t format) {
    return format == F32 ? attend<F32, WIDTH> : format == BF16 ? attend<BF16, WIDTH> : attend<INT8, WIDTH>;
}

void pause() {  // a moment of asking again and again, for the processor to spend less on it
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Where threads wait for each other: awake for some microseconds, which is soonest, then letting others run, of whom one
// may be the thread that they wait for. OpenMP's own barrier stays awake for milliseconds.
class Barrier {
    std::atomic<int64_t> arrived{0}, turn{0};

public:
    void wait(int64_t n_threads) {
        const int64_t now = turn;
        if (++arrived == n_threads) {
            arrived = 0;
            turn = now + 1;
        }
        for (int64_t i = 0; turn == now; i++) i < 1000 ? pause() : std::this_thread::yield();
    }
};

struct alignas(64) CacheLine {
    float numbers[16];
};

// Memory that all threads share, and this thread's own
struct Scratch {
    float *x, *q, *k, *v, *y, *gate, *up;  // (R, D), (R, H h), (R, K h) twice, (R, D), (R, F) twice
    void *attended, *activated;            // (R, H h) and (R, F) as inputs of the next matrix
    float *scores, *row;                   // own: (H / K, max_length), a row of the widest matrix
    void* normed;                          // own: (R, D) as input of the next matrix

    static int64_t rounded(int64_t n) { return (n + 15) / 16 * 16; }

    Scratch(const Model& m, const Cache& c, int64_t R, int64_t thread, float* memory, int64_t* used = nullptr) {
        const int64_t H = m.n_heads * m.head_dim, K = m.n_kv_heads * m.head_dim, D = m.d_model, F = m.d_ff;
        float* next = memory;
        auto take = [&](int64_t n) { return std::exchange(next, next + rounded(n)); };
        x = take(R * D), q = take(R * H), k = take(R * K), v = take(R * K), y = take(R * D);
        gate = take(R * F), up = take(R * F), attended = take(R * H), activated = take(R * F);
        const float* own = next;
        scores = take(m.n_heads / m.n_kv_heads * rounded(c.max_length));
        row = take(std::max({H, D, F})), normed = take(R * D);
        const int64_t size = next - own;
        if (used) *used = own - memory + size * (thread + 1);
        scores += size * thread, row += size * thread, normed = (float*)normed + size * thread;
    }
};

// What each thread does. Row r is the token r % T of sequence r / T.
void run(const Model& m, const Cache& c, const int64_t* tokens, int64_t T, float* logits, float* memory,
         Barrier& barrier, int64_t thread, int64_t n_threads) {
    const int64_t R = c.n_sequences * T, D = m.d_model, h = m.head_dim, G = m.n_heads / m.n_kv_heads;
    const Scratch s(m, c, R, thread, memory);
    // If whole heads can be shared out, a thread needs only queries, keys and values of its own in attention.
    const bool own_heads = m.n_kv_heads % n_threads == 0 && !m.joint_qk_norm;
    const auto attend = h % 64 ? attend_in<16>(c.format) : attend_in<64>(c.format);
    // Each thread does a range of n things, in multiples of `unit`, and so reads memory in one stream.
    auto divide = [&](int64_t n, int64_t unit, auto work) {
        const int64_t units = (n + unit - 1) / unit, begin = units * thread / n_threads * unit;
        const int64_t end = std::min(n, units * (thread + 1) / n_threads * unit);
        if (begin < end) work(begin, end);
    };
    auto normed = [&](const float* weight, const Matrix& next) {  // the residual stream; without weights, as it is
        for (int64_t r = 0; r < R; r++) {
            const float* x = s.x + r * D;
            if (weight) rms_norm(x, weight, D, m.norm_eps, s.row), x = s.row;
            as_input(next.format, x, D, row_of(s.normed, next.format, r, D));
        }
        return s.normed;
    };
    auto project = [&](const Matrix& w, const void* x, float* y, const float* bias = nullptr) {
        divide(w.n, 16, [&](int64_t begin, int64_t end) {
            multiply(w, begin, end, x, R, y);
            for (int64_t r = 0; bias && r < R; r++)
                for (int64_t i = begin; i < end; i++) y[r * w.n + i] += bias[i];
        });
    };
    // Rows of a matrix, each by one thread
    auto norm_rows = [&](float* x, const float* weight, int64_t n) {
        for (int64_t r = thread; r < R; r += n_threads) rms_norm(x + r * n, weight, n, m.norm_eps, x + r * n);
    };
    auto add_projected = [&](const Matrix& w, const void* x, const float* norm) {  // to the residual stream
        if (m.norm_after) {
            project(w, x, s.y);
            barrier.wait(n_threads);
            norm_rows(s.y, norm, D);
            for (int64_t r = thread; r < R; r += n_threads)
                for (int64_t i = 0; i < D; i++) s.x[r * D + i] += s.y[r * D + i];
            return;
        }
        divide(w.n, 16, [&](int64_t begin, int64_t end) {
            multiply(w, begin, end, x, R, s.y);
            for (int64_t r = 0; r < R; r++)
                for (int64_t i = begin; i < end; i++) s.x[r * D + i] += s.y[r * D + i];
        });
    };

    for (int64_t r = thread; r < R; r += n_threads)
        for (int64_t i = 0; i < D; i++) {
            const void* data = m.embedding.data;
            const int64_t at = tokens[r] * D + i;
            s.x[r * D + i] = m.embedding.format == F32 ? ((const float*)data)[at] : to_float(((const uint16_t*)data)[at]);
        }
    barrier.wait(n_threads);
    for (int64_t layer = 0; layer < m.n_layers; layer++) {
        const Layer& l = m.layers[layer];
        const void* x = normed(m.norm_after ? nullptr : l.attention_norm, l.q);
        project(l.q, x, s.q, l.q_bias), project(l.k, x, s.k, l.k_bias), project(l.v, x, s.v, l.v_bias);
        if (!own_heads) barrier.wait(n_threads);
        if (m.joint_qk_norm) {
            norm_rows(s.q, l.q_norm, l.q.n), norm_rows(s.k, l.k_norm, l.k.n);
            barrier.wait(n_threads);
        }
        float* k_scales = c.format == INT8 ? c.k_scales[layer] : nullptr;
        float* v_scales = c.format == INT8 ? c.v_scales[layer] : nullptr;
        auto rows_of = [&](void* data, const float* scales, int64_t head) {
            const int64_t first = head * c.head_stride;
            return Rows{(const char*)data + first * h * bits(c.format) / 8, scales ? scales + first : nullptr};
        };
        auto for_each_head = [&](auto work) {
            divide(m.n_kv_heads * R, 1, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; i++) {
                    const int64_t head = i / R, r = i % R;
                    work(head, r * m.n_kv_heads + head, c.slots + r / T * c.max_length, c.lengths[r / T] + r % T);
                }
            });
        };
        for_each_head([&](int64_t head, int64_t at, const int64_t* slots, int64_t position) {
            const int64_t row = head * c.head_stride + slots[position];
            norm_and_rotate(s.k + at * h, l.k_norm, m, l.has_rope, position);
            store_row(c.format, c.k[layer], k_scales, row, s.k + at * h, h);
            store_row(c.format, c.v[layer], v_scales, row, s.v + at * h, h);
        });
        if (!own_heads) barrier.wait(n_threads);  // tokens of one sequence see each other's keys
        for_each_head([&](int64_t head, int64_t at, const int64_t* slots, int64_t position) {
            float* q = s.q + at * G * h;
            for (int64_t g = 0; g < G; g++) norm_and_rotate(q + g * h, l.q_norm, m, l.has_rope, position);
            attend(rows_of(c.k[layer], k_scales, head), rows_of(c.v[layer], v_scales, head), slots, position + 1, q, G,
                   h, s.scores, s.row);
            as_input(l.o.format, s.row, G * h, row_of(s.attended, l.o.format, at, G * h));
        });
        barrier.wait(n_threads);
        add_projected(l.o, s.attended, l.attention_norm);
        barrier.wait(n_threads);
        x = normed(m.norm_after ? nullptr : l.feed_forward_norm, l.gate);
        divide(m.d_ff, 16, [&](int64_t begin, int64_t end) {
            multiply(l.gate, begin, end, x, R, s.gate), multiply(l.up, begin, end, x, R, s.up);
            for (int64_t r = 0; r < R; r++) {
                const int64_t start = r * m.d_ff + begin, n = end - begin;
                for (int64_t i = 0; i < n; i += LANES) {
                    floats gate = {}, up = {};
                    int64_t bytes = std::min<int64_t>(LANES, n - i) * 4;
                    memcpy(&gate, s.gate + start + i, bytes), memcpy(&up, s.up + start + i, bytes);
                    floats y = gate / (1.0f + exponential(-gate)) * up;
                    memcpy(s.gate + start + i, &y, bytes);
                }
                as_input(l.down.format, s.gate + start, n, row_of(s.activated, l.down.format, start, 1));
            }
        });
        barrier.wait(n_threads);
        add_projected(l.down, s.activated, l.feed_forward_norm);
        barrier.wait(n_threads);
    }
    project(m.head, normed(m.norm, m.head), logits);
}

}  // namespace

extern "C" {

// With how many rows it makes use of packed matrices
int64_t max_packed_rows() { return HAS_DOT ? MAX_PACKED_ROWS : 0; }

// Reads n numbers once, as the forward pass reads weights; returns something made of all of them.
int64_t read_memory(const int64_t* data, int64_t n, int64_t n_threads) {
    int64_t total = 0;
#pragma omp parallel for num_threads(n_threads) reduction(^ : total) schedule(static)
    for (int64_t i = 0; i < n; i++) total ^= data[i];
    return total;
}

// Logits (B, T, V) of the next T tokens (B, T) of every sequence, whose keys and values are stored behind those that the
// cache holds; each token sees all up to its own. Whether all tokens and lengths are in range; if not, nothing is done.
bool forward(const Model* m, const Cache* c, const int64_t* tokens, int64_t T, float* logits, int64_t n_threads) {
    for (int64_t r = 0; r < c->n_sequences * T; r++) {
        const int64_t token = tokens[r], position = c->lengths[r / T] + r % T;
        if (token < 0 || token >= m->embedding.n || position < 0) return false;
        if (position >= std::min(m->context, c->max_length)) return false;
    }
    thread_local std::vector<CacheLine> memory;  // kept from call to call
    int64_t n_floats;
    Scratch(*m, *c, c->n_sequences * T, n_threads - 1, nullptr, &n_floats);
    if (int64_t(memory.size()) * 16 < n_floats) memory.resize(n_floats / 16);
    float* scratch = memory.data()->numbers;
    Barrier barrier;
#ifdef _OPENMP
#pragma omp parallel num_threads(n_threads)
    run(*m, *c, tokens, T, logits, scratch, barrier, omp_get_thread_num(), omp_get_num_threads());
#else
    run(*m, *c, tokens, T, logits, scratch, barrier, 0, 1);
#endif
    return true;
}

}  // extern "C"
