// Memory of feature maps and gradients, as tensors that torch takes over (DLPack, version 0).
#include <cstdint>
#include <cstdlib>

namespace {

constexpr size_t ALIGNED = 64;  // bytes of which addresses are a multiple: a line of the cache
constexpr int DIMENSIONS = 4;   // at most

// The structures of <dlpack/dlpack.h>.
struct Device {
    int32_t kind, index;
};
struct Type {
    uint8_t code, bits;
    uint16_t lanes;
};
struct Described {
    void *numbers;
    Device device;
    int32_t dimensions;
    Type type;
    int64_t *shape, *strides;
    uint64_t offset;
};
struct Managed {
    Described tensor;
    void *context;
    void (*release)(Managed *);
};
constexpr int32_t CPU = 1;
constexpr uint8_t FLOAT = 2, BFLOAT = 4;

// What malloc gives: this, then the numbers.
struct Block {
    Managed managed;
    int64_t shape[DIMENSIONS], strides[DIMENSIONS];
};

}  // namespace

extern "C" {

// An uninitialised tensor of `dimensions` of the sizes n, c, h, w, the others 1: float32, or bf16 where `bits` are 16.
// Null where there is no memory.  malloc uses again what it once gave, which aligned_alloc does not before glibc 2.38.
void *tensor(int bits, int dimensions, long n, long c, long h, long w, int channels_last) {
    size_t numbers = n * c * h * w;
    auto *block = (Block *)malloc(sizeof(Block) + ALIGNED + numbers * bits / 8);
    if (!block) return nullptr;
    auto begin = ((uintptr_t)(block + 1) + ALIGNED - 1) / ALIGNED * ALIGNED;
    int64_t shape[] = {n, c, h, w}, contiguous[] = {c * h * w, h * w, w, 1}, last[] = {h * w * c, 1, w * c, c};
    for (int k = 0; k < DIMENSIONS; k++) block->shape[k] = shape[k], block->strides[k] = channels_last ? last[k] : contiguous[k];
    Type type{bits == 16 ? BFLOAT : FLOAT, (uint8_t)bits, 1};
    block->managed.tensor = {(void *)begin, {CPU, 0}, dimensions, type, block->shape, block->strides, 0};
    block->managed.context = block;
    block->managed.release = [](Managed *managed) { free(managed->context); };
    return &block->managed;
}
}
