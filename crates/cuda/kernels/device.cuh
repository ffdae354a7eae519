// What kernels need of the device, in one place: kernels use nothing of CUDA but this file, so that the tests can compile
// them for the processor with a file of the same functions instead (tests/host/device.cuh). That file is included first
// and defines CRESCENDO_HOST.
#pragma once
#ifndef CRESCENDO_HOST

using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

#define DEVICE __device__ __forceinline__

// A kernel: `KERNEL(name, Params, threads)` and a body, which finds its parameters in `p`.
#define KERNEL(name, Params, threads) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Params p)

// The shared memory of a block, as much as the launch asks for.
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_index_x() { return blockIdx.x; }
DEVICE u32 block_index_y() { return blockIdx.y; }
DEVICE u32 block_index_z() { return blockIdx.z; }
DEVICE u32 block_threads() { return blockDim.x; }
DEVICE u32 grid_blocks_x() { return gridDim.x; }

// Waits for all threads of the block; what they wrote to shared memory can be read afterwards.
DEVICE void block_barrier() { __syncthreads(); }

// The value of the lane whose number differs in these bits. All lanes of a warp take part.
DEVICE float shuffle_xor(float value, u32 bits) { return __shfl_xor_sync(0xffffffffu, value, bits); }
DEVICE double shuffle_xor(double value, u32 bits) {
    return __shfl_xor_sync(0xffffffffu, value, bits);
}

// A number of bfloat16: the upper half of a float's bits.
struct Bf16 {
    u16 bits;
};

DEVICE float to_f32(Bf16 value) { return __uint_as_float(u32(value.bits) << 16); }

// Rounds two numbers to the nearest bfloat16, ties to even; `low` takes the lower half.
DEVICE u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// A product that is rounded by itself, never a part of a fused multiply-add.
DEVICE float rounded_product(float a, float b) { return __fmul_rn(a, b); }

DEVICE float bits_to_f32(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 f32_to_bits(float value) { return __float_as_uint(value); }

// Sixteen bytes, loaded and stored at once; addresses are multiples of 16.
struct __align__(16) Bytes16 {
    u32 word[4];
};

// Copies 16 bytes from global to shared memory in the background.
DEVICE void copy_async(void* shared, const void* global) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}

// Ends a group of copies.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of this thread's groups of copies are not finished. A barrier makes them visible to
// other threads.
template <int pending>
DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8x8 matrices of 16-bit numbers from shared memory. Lane `l` gives the address of row `l % 8` of matrix `l / 8`,
// 16 bytes; lane `l` receives, of each matrix, the numbers 2 * (l % 4) and one more of row `l / 4`.
DEVICE void load_matrices(u32 (&fragment)[4], const void* row) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
}

// As load_matrices, each matrix transposed.
DEVICE void load_matrices_transposed(u32 (&fragment)[4], const void* row) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
}

// d += a b with a 16x16 and b 16x8 in bf16, d 16x8 in f32. With g = lane / 4 and t = lane % 4, lane holds
// a[0..4] = rows g, g + 8, g, g + 8 at columns 2t and 2t + 1 (plus 8 in a[2], a[3]); b[0..2] = column g at rows 2t and
// 2t + 1 (plus 8 in b[1]); d = row g at columns 2t, 2t + 1, then row g + 8.
DEVICE void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += a b with a 16x8 and b 8x8 in tf32 (f32 whose lowest 13 bits are zeros), d 16x8 in f32. With g = lane / 4 and
// t = lane % 4, lane holds a[0..4] = rows g, g + 8, g, g + 8 at column t (plus 4 in a[2], a[3]); b0 and b1 = column g at
// rows t and t + 4; d = row g at columns 2t, 2t + 1, then row g + 8.
DEVICE void multiply_add_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
