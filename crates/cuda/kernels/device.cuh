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

// A kernel: `KERNEL(name, Params, threads)` and a body, which finds its parameters in `p`. With KERNEL_BESIDE so many
// blocks fit on a multiprocessor by their registers.
#define KERNEL_BESIDE(name, Params, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)
#define KERNEL(name, Params, threads) KERNEL_BESIDE(name, Params, threads, 1)

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

// A value that is the same in all lanes of a warp, in a way that the compiler knows it.
DEVICE int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

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

// The same, or 16 bytes of zeros if not `inside`; `global` must be an address that can be read.
DEVICE void copy_async_or_zeros(void* shared, const void* global, bool inside) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(inside ? 16 : 0)
                 : "memory");
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

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Products of a warpgroup, four warps whose first has a number that is a multiple of four (Hopper alone).
#define WARPGROUP_PRODUCTS

// An operand in shared memory, made of blocks of 8x8 numbers of 128 contiguous bytes each. `sums` bytes lie between two
// blocks that are neighbours along the dimension of the sum, `results` between those along the other one. A block's rows
// of 16 bytes go along the dimension of the sum, or across it where the operand is taken as transposed.
DEVICE u64 matrix_descriptor(const void* shared, u32 sums, u32 results) {
    u64 address = static_cast<u32>(__cvta_generic_to_shared(shared));
    return (address >> 4 & 0x3fff) | u64(sums >> 4) << 16 | u64(results >> 4) << 32;
}

// What the threads of the block have written to shared memory becomes visible to products that begin after a barrier.
DEVICE void publish_operands() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Comes before the first product of a group.
DEVICE void warpgroup_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Ends a group of products.
DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `pending` groups are not finished.
template <int pending>
DEVICE void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// d += a b, or d = a b if not `add`, with a 64x16 and b 16x64 in bf16, d 64x64 in f32; finished after warpgroup_wait. Warp
// `w` of the warpgroup has rows 16 w and on; with g = lane / 4 and t = lane % 4, lane holds, of each eight columns, in four
// numbers row g at columns 2t and 2t + 1, then row g + 8. Operands lie along the sum, or across it if `transposed`.
template <bool transposed>
DEVICE void warpgroup_multiply_add(float (&d)[32], u64 a, u64 b, bool add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, %35, %35;\n}\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(u32(add)), "n"(transposed ? 1 : 0));
}
#endif

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
