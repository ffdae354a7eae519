// The functions of kernels/device.cuh for the processor, so that tests run the kernels without CUDA. It is included
// before any kernel, and kernels/device.cuh is then empty. host.cpp runs the threads.
#pragma once
#define CRESCENDO_HOST

#include <cmath>
#include <cstring>
#include <math.h> // expf and the like in the global namespace

using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

namespace host {

// What a thread can ask of the launch it is in; `thread` changes with every switch to another thread.
struct Running {
    u32 thread;
    u32 threads;
    u32 block[3];
    u32 grid[3];
    unsigned char* shared;
};

// The launch of this thread of the processor. The model of access is the fast one; a pointer is small enough for it.
static thread_local Running* running __attribute__((tls_model("initial-exec"))) = nullptr;

// Adds a kernel to those that can be launched by name.
struct Kernel {
    Kernel(const char* name, u32 params_bytes, u32 threads, void (*body)(const void*));
    const char* name;
    u32 params_bytes;
    u32 threads;
    void (*body)(const void*);
};

void block_barrier();
u64 shuffle_xor(u64 value, u32 bits, bool wide);
void copy_async(void* shared, const void* global);
void copy_async_commit();
void copy_async_wait(u32 pending);
void load_matrices(u32* fragment, const void* row, bool transposed);
void multiply_add(float* d, const u32* a, u32 b0, u32 b1);
u64 matrix_descriptor(const void* shared, u32 sums, u32 results);
void warpgroup_multiply_add(float* d, u64 a, u64 b, bool add, bool transposed);
void warpgroup_commit();
void warpgroup_wait(u32 pending);
void multiply_add_tf32(float* d, const u32* a, u32 b0, u32 b1);

template <class To, class From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

// As cvt.rn.bf16 does: to the nearest, ties to even; every NaN becomes 0x7fff.
inline u32 bf16_bits(float value) {
    u32 bits = same_bits<u32>(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

} // namespace host

#define DEVICE inline

#define KERNEL_BESIDE(name, Params, threads, blocks) KERNEL(name, Params, threads)
#define KERNEL(name, Params, threads)                                                                     \
    static void name(const Params p);                                                                     \
    static const host::Kernel name##_kernel(#name, sizeof(Params), threads, [](const void* params) {      \
        static_assert(sizeof(Params) <= 4096, "a kernel takes at most 4096 bytes of parameters");         \
        name(*static_cast<const Params*>(params));                                                        \
    });                                                                                                   \
    static void name(const Params p)

#define SHARED_MEMORY(name) unsigned char* const name = host::running->shared

DEVICE u32 thread_index() { return host::running->thread; }
DEVICE u32 block_index_x() { return host::running->block[0]; }
DEVICE u32 block_index_y() { return host::running->block[1]; }
DEVICE u32 block_index_z() { return host::running->block[2]; }
DEVICE u32 block_threads() { return host::running->threads; }
DEVICE u32 grid_blocks_x() { return host::running->grid[0]; }

DEVICE void block_barrier() { host::block_barrier(); }

DEVICE float shuffle_xor(float value, u32 bits) {
    u64 other = host::shuffle_xor(host::same_bits<u32>(value), bits, false);
    return host::same_bits<float>(static_cast<u32>(other));
}
DEVICE double shuffle_xor(double value, u32 bits) {
    return host::same_bits<double>(host::shuffle_xor(host::same_bits<u64>(value), bits, true));
}

DEVICE int uniform(int value) { return value; }

struct Bf16 {
    u16 bits;
};

DEVICE float to_f32(Bf16 value) { return host::same_bits<float>(u32(value.bits) << 16); }

DEVICE u32 pack_bf16(float low, float high) { return host::bf16_bits(high) << 16 | host::bf16_bits(low); }

// The library is compiled without contraction.
DEVICE float rounded_product(float a, float b) { return a * b; }
DEVICE float bits_to_f32(u32 bits) { return host::same_bits<float>(bits); }
DEVICE u32 f32_to_bits(float value) { return host::same_bits<u32>(value); }

struct alignas(16) Bytes16 {
    u32 word[4];
};

DEVICE void copy_async(void* shared, const void* global) { host::copy_async(shared, global); }
DEVICE void copy_async_or_zeros(void* shared, const void* global, bool inside) {
    alignas(16) static const unsigned char zeros[16] = {};
    host::copy_async(shared, inside ? global : zeros);
}
DEVICE void copy_async_commit() { host::copy_async_commit(); }
template <int pending>
DEVICE void copy_async_wait() {
    host::copy_async_wait(pending);
}

DEVICE void load_matrices(u32 (&fragment)[4], const void* row) { host::load_matrices(fragment, row, false); }
DEVICE void load_matrices_transposed(u32 (&fragment)[4], const void* row) {
    host::load_matrices(fragment, row, true);
}
DEVICE void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { host::multiply_add(d, a, b0, b1); }

#define WARPGROUP_PRODUCTS

DEVICE u64 matrix_descriptor(const void* shared, u32 sums, u32 results) {
    return host::matrix_descriptor(shared, sums, results);
}
DEVICE void publish_operands() {}
DEVICE void warpgroup_begin() {}
DEVICE void warpgroup_commit() { host::warpgroup_commit(); }
template <int pending>
DEVICE void warpgroup_wait() {
    host::warpgroup_wait(pending);
}
template <bool transposed>
DEVICE void warpgroup_multiply_add(float (&d)[32], u64 a, u64 b, bool add) {
    host::warpgroup_multiply_add(d, a, b, add, transposed);
}

DEVICE void multiply_add_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    host::multiply_add_tf32(d, a, b0, b1);
}
