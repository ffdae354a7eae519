// Runs kernels on the processor: every thread of a block is a fiber with a stack of its own, and a thread runs until it
// comes to something that needs other threads. The order in which threads run and the moment at which asynchronous
// copies arrive depend on the schedule, so that a kernel that forgets a barrier computes something else in some of them.
//
// Schedules: 0 and 1 run the lowest thread that can run, 2 and 3 the highest; copies arrive at once in the even ones, and
// as late as allowed in the odd ones. Others are seeds: the odd seeds choose anew at every switch, the even ones run warps
// and lanes in an order drawn for each block, and each copy arrives early or late by chance.
#include "device.cuh"

#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

#if !defined(CRESCENDO_UCONTEXT) && !(defined(__ELF__) && (defined(__x86_64__) || defined(__aarch64__)))
#define CRESCENDO_UCONTEXT
#endif
#ifdef CRESCENDO_UCONTEXT
#include <ucontext.h>
#endif

namespace {

using host::Kernel;
using host::running;
using Byte = unsigned char;

// Switching: stores the registers that a call must keep on the stack, and changes stacks.
#ifdef CRESCENDO_UCONTEXT

struct Context {
    ucontext_t registers;
};

void switch_context(Context& from, Context& to) { swapcontext(&from.registers, &to.registers); }

void prepare_context(Context& context, Byte* stack, size_t bytes, void (*entry)()) {
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = stack;
    context.registers.uc_stack.ss_size = bytes;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, entry, 0);
}

#else

struct Context {
    void* stack_pointer;
};

extern "C" __attribute__((visibility("hidden"))) void crescendo_switch(void** from, void* to);

#ifdef __x86_64__
asm(R"(
    .text
    .p2align 4
    .globl crescendo_switch
    .hidden crescendo_switch
    .type crescendo_switch, @function
crescendo_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size crescendo_switch, .-crescendo_switch
)");
// The entry's address is above the six registers, and above it an empty return address, as after a call.
constexpr int frame_words = 8, entry_word = 6;
#else
asm(R"(
    .text
    .p2align 4
    .globl crescendo_switch
    .hidden crescendo_switch
    .type crescendo_switch, %function
crescendo_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size crescendo_switch, .-crescendo_switch
)");
constexpr int frame_words = 20, entry_word = 11;
#endif

void switch_context(Context& from, Context& to) { crescendo_switch(&from.stack_pointer, to.stack_pointer); }

void prepare_context(Context& context, Byte* stack, size_t bytes, void (*entry)()) {
    u64* frame = reinterpret_cast<u64*>(stack + bytes) - frame_words;
    memset(frame, 0, frame_words * sizeof(u64));
    frame[entry_word] = reinterpret_cast<uintptr_t>(entry);
    context.stack_pointer = frame;
}

#endif

constexpr u32 lanes = 32;
constexpr u32 most_threads = 1024;
constexpr u32 most_warps = most_threads / lanes;
constexpr size_t stack_bytes = 64 << 10;
constexpr size_t most_shared = 227 << 10;
constexpr Byte poison = 0xff; // a NaN in every format

const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

bool poisoned(const Byte* first, const Byte* end) {
    while (first < end)
        if (*first++ != poison) return false;
    return true;
}

// Address space that faults until parts of it are opened.
Byte* reserve(size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<Byte*>(memory);
}

bool open(Byte* first, size_t bytes) { return mprotect(first, bytes, PROT_READ | PROT_WRITE) == 0; }

std::vector<const Kernel*>& kernels() {
    static std::vector<const Kernel*> all;
    return all;
}

const Kernel* find_kernel(const char* name) {
    for (const Kernel* kernel : kernels())
        if (strcmp(kernel->name, name) == 0) return kernel;
    return nullptr;
}

// Global memory: an allocation ends at a page that faults, but for the bytes that alignment leaves.
struct Allocation {
    Byte* region;
    size_t region_bytes;
    Byte* data;
    size_t bytes;
    const void* owner; // the thread of the processor whose launches are to blame for an overrun

    // Whether somebody wrote beside it; only once for each time.
    bool overrun() const {
        Byte* first = static_cast<size_t>(data - region) < page + 64 ? region + page : data - 64;
        Byte* end = region + region_bytes - page;
        if (poisoned(first, data) && poisoned(data + bytes, end)) return false;
        memset(first, poison, static_cast<size_t>(data - first));
        memset(data + bytes, poison, static_cast<size_t>(end - data) - bytes);
        return true;
    }
};

std::mutex mutex; // of what follows
std::vector<Allocation> allocations;
std::vector<struct Machine*> idle_machines;
bool handlers_installed = false;

enum Collective { barrier, shuffle, shuffle_double, load, load_transposed, multiply, multiply_tf32 };
const char* const collective_names[] = {"block_barrier", "shuffle_xor", "shuffle_xor of double", "load_matrices",
                                        "load_matrices_transposed", "multiply_add", "multiply_add_tf32"};

using Vector = float __attribute__((vector_size(32)));

struct Warp {
    u32 arrived; // lanes that wait in the collective
    u32 returned;
    Collective collective;
    // What lanes bring to a collective, and what the last one makes of it. A lane takes its part when it goes on, before
    // it comes to another collective.
    u64 values[lanes];
    u64 exchanged[lanes];
    const void* rows[lanes];
    alignas(16) Byte loaded[lanes][16];
    alignas(32) float a[16][16];
    Vector b[16];
    Vector d[16];
    Vector sums[16];
};

struct Copy {
    void* to;
    const void* from;
    u32 group;
};

// The copies of a thread that are under way; groups are numbered from 0, and `group` is the one not yet committed.
struct Copies {
    std::vector<Copy> late;
    u32 group;
};

// A thread's part of the products of its warpgroup that are under way; groups are numbered as those of copies.
struct Product {
    float* d;
    u64 a, b;
    bool add, transposed;
    u32 group;
};

struct Products {
    std::vector<Product> late;
    u32 group;
};

struct Machine : host::Running {
    const Kernel* kernel;
    alignas(16) Byte params[4096];
    u32 shared_bytes;
    u32 schedule;
    u64 random_state;
    u64 bank_conflicts;
    std::string error;

    // Which warps have lanes that can run, and which lanes: bits in the order in which they are chosen.
    u32 ready_warps;
    u32 ready_lanes[most_warps];
    u32 warp_at[most_warps], place_of_warp[most_warps];
    u32 lane_at[lanes];
    u32 unstarted_lanes[most_warps]; // by their own numbers
    u32 unstarted;                   // all of them
    bool draws;                      // whether each choice is drawn
    u32 warps_at_barrier;
    u32 returned;
    Warp warps[most_warps];
    Copies copies[most_threads];
    Products products[most_threads];

    Context outside;
    Context contexts[most_threads];
    // A thread gets a stack when it starts and gives it back when it returns: threads that need no others run one after
    // another on the same stack, without a switch.
    Byte* stacks = nullptr;
    u32 opened_stacks = 0;
    u32 free_stacks[most_threads];
    u32 free_stack_count;
    u32 started_stack; // the stack of the thread that starts
    Byte* shared_region = nullptr;
    Byte* signal_stack = nullptr;

    // Set by the signal handler.
    volatile sig_atomic_t in_kernel = 0;
    volatile sig_atomic_t signal = 0;
    int signal_code;
    Byte* fault;

    static Machine* here() { return static_cast<Machine*>(running); }

    u32 random() {
        random_state ^= random_state >> 12;
        random_state ^= random_state << 25;
        random_state ^= random_state >> 27;
        return static_cast<u32>(random_state * 0x2545f4914f6cdd1d >> 32);
    }

    // A stack's size and one page more: the page faults, and stacks do not all fall on the same lines of the caches.
    size_t stack_stride() const { return stack_bytes + page; }

    bool reserve_memory(u32 wanted) {
        size_t shared_space = round_up(most_shared, page) + page;
        if (!stacks) {
            stacks = reserve(most_threads * stack_stride());
            shared_region = reserve(shared_space + page);
            signal_stack = reserve(stack_bytes);
            if (!stacks || !shared_region || !signal_stack) return false;
            if (!open(shared_region, shared_space) || !open(signal_stack, stack_bytes)) return false;
        }
        for (; opened_stacks < wanted; opened_stacks++)
            if (!open(stacks + opened_stacks * stack_stride() + page, stack_bytes)) return false;
        return true;
    }

    // The first page of shared memory that faults.
    Byte* shared_guard() const { return shared_region + round_up(most_shared, page) + page; }

    __attribute__((format(printf, 2, 3))) void set_error(const char* format, ...) {
        char text[512];
        va_list values;
        va_start(values, format);
        vsnprintf(text, sizeof text, format, values);
        va_end(values);
        error = text;
    }

    // Ends the launch from inside a thread; the stacks of all threads are left as they are.
    void leave() {
        switch_context(contexts[thread], outside);
        __builtin_unreachable();
    }

    void refuse(const char* what, const void* address) {
        set_error("%s: %p, shared memory is %p to %p", what, address, static_cast<void*>(shared),
                  static_cast<void*>(shared + shared_bytes));
        leave();
    }

    bool in_shared(const void* address, size_t bytes) const {
        uintptr_t first = reinterpret_cast<uintptr_t>(shared), at = reinterpret_cast<uintptr_t>(address);
        return at >= first && at + bytes <= first + shared_bytes;
    }

    static bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

    void deadlock() {
        error = "deadlock:";
        for (u32 w = 0; w < threads / lanes; w++) {
            const Warp& warp = warps[w];
            if (warp.returned == lanes) continue;
            char text[128];
            const char* collective = collective_names[warp.collective];
            snprintf(text, sizeof text, " warp %u: %u wait in %s, %u returned;", w, warp.arrived, collective,
                     warp.returned);
            error += text;
        }
        error.pop_back();
        leave();
    }

    u32 choose(u32 mask) {
        if (!draws) return static_cast<u32>(__builtin_ctz(mask));
        u32 skip = random() % 32;
        u32 turned = skip == 0 ? mask : mask >> skip | mask << (32 - skip);
        return (static_cast<u32>(__builtin_ctz(turned)) + skip) % 32;
    }

    // Takes the next thread that can run. There is one.
    u32 take_ready() {
        u32 place = choose(ready_warps);
        u32 lane = choose(ready_lanes[place]);
        ready_lanes[place] &= ~(1u << lane);
        if (ready_lanes[place] == 0) ready_warps &= ~(1u << place);
        return warp_at[place] * lanes + lane_at[lane];
    }

    void choose_next() {
        if (ready_warps == 0) {
            if (returned == threads) leave();
            deadlock();
        }
        thread = take_ready();
    }

    void run_another() {
        u32 self = thread;
        choose_next();
        if (start()) begin_on_own_stack(contexts[self]);
        else if (thread != self) switch_context(contexts[self], contexts[thread]);
    }

    // Whether the chosen thread has not run before; from now on it has.
    bool start() {
        if (unstarted == 0) return false;
        u32& of_warp = unstarted_lanes[thread / lanes];
        u32 bit = 1u << thread % lanes;
        if ((of_warp & bit) == 0) return false;
        of_warp &= ~bit;
        unstarted--;
        return true;
    }

    void begin_on_own_stack(Context& from) {
        u32 stack = free_stacks[--free_stack_count];
        started_stack = stack;
        // Frames at the same depth fall on different lines of the caches.
        size_t bytes = stack_bytes - stack * 5 % 64 * 64;
        prepare_context(contexts[thread], stacks + stack * stack_stride() + page, bytes, thread_main);
        switch_context(from, contexts[thread]);
    }

    void wake(u32 warp) {
        u32 place = place_of_warp[warp];
        ready_lanes[place] = 0xffffffff;
        ready_warps |= 1u << place;
    }

    // All lanes of a warp come here; the last one does the work.
    void arrive(Collective collective) {
        u32 w = thread / lanes;
        Warp& warp = warps[w];
        if (warp.arrived == 0) {
            warp.collective = collective;
        } else if (warp.collective != collective) {
            set_error("deadlock: lanes of warp %u wait in %s, and lane %u in %s", w, collective_names[warp.collective],
                      thread % lanes, collective_names[collective]);
            leave();
        }
        if (++warp.arrived == lanes) {
            if (collective == barrier) {
                if (++warps_at_barrier == threads / lanes) {
                    warps_at_barrier = 0;
                    for (u32 other = 0; other < threads / lanes; other++) {
                        warps[other].arrived = 0;
                        wake(other);
                    }
                }
            } else {
                warp.arrived = 0;
                perform(collective, warp);
                wake(w);
            }
        }
        run_another();
    }

    void perform(Collective collective, Warp& warp) {
        switch (collective) {
        case barrier: break;
        case shuffle:
        case shuffle_double: memcpy(warp.exchanged, warp.values, sizeof warp.values); break;
        case load:
        case load_transposed: load_rows(warp); break;
        case multiply: multiply_add<16>(warp); break;
        case multiply_tf32: multiply_add<8>(warp); break;
        }
    }

    void load_rows(Warp& warp) {
        for (u32 m = 0; m < lanes; m += 8) {
            u32 in_banks = 0, most = 0; // eight counters of four bits: rows in the same four banks
            for (u32 r = 0; r < 8; r++) in_banks += 1u << (reinterpret_cast<uintptr_t>(warp.rows[m + r]) / 16 % 8 * 4);
            for (u32 r = 0; r < 8; r++) most = most > (in_banks >> (4 * r) & 15) ? most : in_banks >> (4 * r) & 15;
            bank_conflicts += most - 1;
        }
        for (u32 l = 0; l < lanes; l++) memcpy(warp.loaded[l], warp.rows[l], 16);
    }

    template <u32 inner>
    static void multiply_add(Warp& warp) {
        // Products of bfloat16 and of tf32 are exact in f32, so it does not matter whether the compiler fuses.
        for (u32 i = 0; i < 16; i += 8) {
            Vector s0 = warp.d[i], s1 = warp.d[i + 1], s2 = warp.d[i + 2], s3 = warp.d[i + 3];
            Vector s4 = warp.d[i + 4], s5 = warp.d[i + 5], s6 = warp.d[i + 6], s7 = warp.d[i + 7];
            const float(*a)[16] = warp.a + i;
            for (u32 k = 0; k < inner; k++) {
                Vector row = warp.b[k];
                s0 += a[0][k] * row;
                s1 += a[1][k] * row;
                s2 += a[2][k] * row;
                s3 += a[3][k] * row;
                s4 += a[4][k] * row;
                s5 += a[5][k] * row;
                s6 += a[6][k] * row;
                s7 += a[7][k] * row;
            }
            Vector all[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
            memcpy(warp.sums + i, all, sizeof all);
        }
    }

    // The address of a number of an operand of warpgroup_multiply_add, row `i` along the results and `k` along the sum.
    const Byte* operand(u64 descriptor, bool transposed, u32 i, u32 k) {
        u32 at = static_cast<u32>(descriptor & 0x3fff) * 16;
        u32 sums = static_cast<u32>(descriptor >> 16 & 0x3fff) * 16, results = static_cast<u32>(descriptor >> 32 & 0x3fff) * 16;
        u32 row = transposed ? k : i, column = transposed ? i : k;
        const Byte* address = shared + at + i / 8 * results + k / 8 * sums + row % 8 * 16 + column % 8 * 2;
        if (!in_shared(address, 2)) refuse("an operand at a wrong address", address);
        return address;
    }

    float number(u64 descriptor, bool transposed, u32 i, u32 k) {
        u16 bits;
        memcpy(&bits, operand(descriptor, transposed, i, k), 2);
        return host::same_bits<float>(u32(bits) << 16);
    }

    // The thread's numbers of a product.
    void multiply_warpgroup(const Product& product) {
        u32 warp = thread / lanes % 4, lane = thread % lanes, g = lane / 4, t = lane % 4;
        float a[2][16];
        for (u32 half = 0; half < 2; half++)
            for (u32 k = 0; k < 16; k++) a[half][k] = number(product.a, product.transposed, warp * 16 + half * 8 + g, k);
        for (u32 i = 0; i < 16; i++) {
            float b[16];
            for (u32 k = 0; k < 16; k++) b[k] = number(product.b, product.transposed, i / 2 * 8 + 2 * t + i % 2, k);
            for (u32 half = 0; half < 2; half++) {
                float* d = product.d + i / 2 * 4 + half * 2 + i % 2;
                float sum = product.add ? *d : 0.0f;
                for (u32 k = 0; k < 16; k++) sum += a[half][k] * b[k];
                *d = sum;
            }
        }
    }

    // Brings a lane's part of `d` to a product, and takes its part of the result.
    void exchange_sums(Warp& warp, Collective collective, float* d) {
        u32 lane = thread % lanes, at = lane / 4 * 32 + lane % 4 * 8, below = at + 8 * 32;
        Byte* sums = reinterpret_cast<Byte*>(warp.d);
        memcpy(sums + at, d, 8);
        memcpy(sums + below, d + 2, 8);
        arrive(collective);
        sums = reinterpret_cast<Byte*>(warp.sums);
        memcpy(d, sums + at, 8);
        memcpy(d + 2, sums + below, 8);
    }

    static void thread_main() {
        Machine* machine = here();
        u32 stack = machine->started_stack;
        do {
            machine->kernel->body(machine->params);
            machine->returned++;
            machine->warps[machine->thread / lanes].returned++;
            machine->choose_next();
        } while (machine->start());
        machine->free_stacks[machine->free_stack_count++] = stack;
        Context nobody;
        switch_context(nobody, machine->contexts[machine->thread]);
        __builtin_unreachable();
    }

    void draw_order(u32* order, u32 count) {
        bool highest = schedule == 2 || schedule == 3;
        for (u32 i = 0; i < count; i++) order[i] = highest ? count - 1 - i : i;
        if (schedule > 3)
            for (u32 i = count; i > 1; i--) std::swap(order[i - 1], order[random() % i]);
    }

    // Runs the block `block`; false if there is an error.
    bool run_block() {
        u32 count = threads / lanes;
        draw_order(warp_at, count);
        draw_order(lane_at, lanes);
        ready_warps = 0;
        warps_at_barrier = 0;
        returned = 0;
        for (u32 place = 0; place < count; place++) {
            place_of_warp[warp_at[place]] = place;
            warps[place].arrived = 0;
            warps[place].returned = 0;
        }
        for (u32 w = 0; w < count; w++) {
            unstarted_lanes[w] = 0xffffffff;
            wake(w);
        }
        for (u32 i = 0; i < threads; i++) {
            copies[i].late.clear();
            copies[i].group = 0;
            products[i].late.clear();
            products[i].group = 0;
            free_stacks[i] = threads - 1 - i;
        }
        free_stack_count = threads;
        unstarted = threads;
        memset(shared - 64, poison, static_cast<size_t>(shared_guard() - shared) + 64);
        error.clear();
        signal = 0;
        thread = take_ready();
        start();
        in_kernel = 1;
        begin_on_own_stack(outside);
        in_kernel = 0;
        if (signal != 0) describe_fault();
        if (error.empty() && !poisoned(shared - 64, shared)) error = "wrote below shared memory";
        if (error.empty() && !poisoned(shared + shared_bytes, shared_guard())) error = "wrote past the end of shared memory";
        return error.empty();
    }

    void describe_fault() {
        void* at = fault;
        if (signal == SIGFPE) {
            error = "division of integers by zero";
        } else if (signal_code != SEGV_MAPERR && signal_code != SEGV_ACCERR) {
            error = "misaligned or impossible address";
        } else if (fault >= stacks && fault < stacks + most_threads * stack_stride()) {
            error = "stack overflow: too many local variables";
        } else if (fault >= shared_guard() && fault < shared_guard() + page) {
            set_error("access %zu bytes past the end of shared memory of %u bytes",
                      static_cast<size_t>(fault - shared) - shared_bytes, shared_bytes);
        } else {
            set_error("access to %p, which is not allocated", at);
            std::lock_guard<std::mutex> lock(mutex);
            for (const Allocation& a : allocations)
                if (fault >= a.region && fault < a.region + a.region_bytes)
                    set_error("access at byte %lld of an allocation of %zu bytes", static_cast<i64>(fault - a.data),
                              a.bytes);
        }
    }
};

struct sigaction previous_segv, previous_bus, previous_fpe;

// A fault in a kernel ends the launch with an error; other faults are left to whoever handled them before.
void handle_fault(int number, siginfo_t* info, void*) {
    Machine* machine = Machine::here();
    if (machine && machine->in_kernel) {
        machine->in_kernel = 0;
        machine->signal = number;
        machine->signal_code = info->si_code;
        machine->fault = static_cast<Byte*>(info->si_addr);
        machine->leave();
    }
    sigaction(number, number == SIGSEGV ? &previous_segv : number == SIGBUS ? &previous_bus : &previous_fpe, nullptr);
}

void install_handlers() {
    struct sigaction action = {};
    action.sa_sigaction = handle_fault;
    // The handler does not return, so the signal must not stay blocked.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &previous_segv);
    sigaction(SIGBUS, &action, &previous_bus);
    sigaction(SIGFPE, &action, &previous_fpe);
}

Machine* take_machine() {
    std::lock_guard<std::mutex> lock(mutex);
    if (!handlers_installed) install_handlers();
    handlers_installed = true;
    if (idle_machines.empty()) return new Machine();
    Machine* machine = idle_machines.back();
    idle_machines.pop_back();
    return machine;
}

// Runs the blocks one after another: forwards, backwards, or in an order drawn by the seed.
void run_grid(Machine& machine) {
    const u32* grid = machine.grid;
    u64 count = u64(grid[0]) * grid[1] * grid[2];
    u64 at = 0, step = 1;
    if (machine.schedule == 2 || machine.schedule == 3) {
        at = count - 1;
        step = count - 1;
    } else if (machine.schedule > 3) {
        at = machine.random() % count;
        auto divisor = [](u64 a, u64 b) {
            while (b != 0) {
                u64 rest = a % b;
                a = b;
                b = rest;
            }
            return a;
        };
        do step = machine.random();
        while (divisor(count, step) != 1);
    }
    for (u64 i = 0; i < count; i++, at = (at + step) % count) {
        machine.block[0] = static_cast<u32>(at % grid[0]);
        machine.block[1] = static_cast<u32>(at / grid[0] % grid[1]);
        machine.block[2] = static_cast<u32>(at / grid[0] / grid[1]);
        if (machine.run_block()) continue;
        char where[128];
        snprintf(where, sizeof where, "block (%u, %u, %u), thread %u: ", machine.block[0], machine.block[1],
                 machine.block[2], machine.thread);
        machine.error.insert(0, where);
        return;
    }
}

thread_local u64 last_bank_conflicts = 0;

std::string launch(const Kernel* kernel, const u32* grid, u32 threads, u32 shared_bytes, const void* params,
                   u32 params_bytes, u32 schedule) {
    if (!kernel) return "no such kernel";
    if (params_bytes != kernel->params_bytes)
        return "takes " + std::to_string(kernel->params_bytes) + " bytes of parameters, not " +
               std::to_string(params_bytes);
    if (threads == 0 || threads % lanes != 0 || threads > kernel->threads || threads > most_threads)
        return "cannot run with " + std::to_string(threads) + " threads, only with whole warps and at most " +
               std::to_string(kernel->threads) + " threads";
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > 0x7fffffff || grid[1] > 65535 || grid[2] > 65535)
        return "the grid is empty or too large";
    if (shared_bytes > most_shared) return "a block cannot have so much shared memory";

    Machine* machine = take_machine();
    if (!machine->reserve_memory(threads)) return "out of memory for stacks";
    machine->kernel = kernel;
    memcpy(machine->params, params, params_bytes);
    memcpy(machine->grid, grid, sizeof machine->grid);
    machine->threads = threads;
    machine->shared_bytes = shared_bytes;
    machine->shared = machine->shared_guard() - round_up(shared_bytes, 16);
    machine->schedule = schedule;
    machine->draws = schedule > 3 && schedule % 2 == 1;
    machine->random_state = (schedule + 1) * 0x9e3779b97f4a7c15;
    machine->bank_conflicts = 0;

    // A stack overflow leaves no room for the handler, so it has a stack of its own.
    stack_t signals = {}, signals_before;
    signals.ss_sp = machine->signal_stack;
    signals.ss_size = stack_bytes;
    sigaltstack(&signals, &signals_before);
    running = machine;
    run_grid(*machine);
    running = nullptr;
    sigaltstack(&signals_before, nullptr);
    last_bank_conflicts = machine->bank_conflicts;

    std::string error = machine->error;
    std::lock_guard<std::mutex> lock(mutex);
    idle_machines.push_back(machine);
    for (const Allocation& a : allocations)
        if (a.owner == &last_bank_conflicts && a.overrun() && error.empty())
            error = "wrote past an end of an allocation of " + std::to_string(a.bytes) + " bytes";
    return error;
}

} // namespace

namespace host {

Kernel::Kernel(const char* name, u32 params_bytes, u32 threads, void (*body)(const void*))
    : name(name), params_bytes(params_bytes), threads(threads), body(body) {
    kernels().push_back(this);
}

void block_barrier() { Machine::here()->arrive(barrier); }

u64 shuffle_xor(u64 value, u32 bits, bool wide) {
    Machine* machine = Machine::here();
    Warp& warp = machine->warps[machine->thread / lanes];
    u32 lane = machine->thread % lanes;
    warp.values[lane] = value;
    machine->arrive(wide ? shuffle_double : shuffle);
    return warp.exchanged[(lane ^ bits) % lanes];
}

void copy_async(void* to, const void* from) {
    Machine* machine = Machine::here();
    if (!Machine::aligned(to) || !machine->in_shared(to, 16)) machine->refuse("copy_async to a wrong address", to);
    if (!Machine::aligned(from) || machine->in_shared(from, 1)) machine->refuse("copy_async from a wrong address", from);
    Copies& copies = machine->copies[machine->thread];
    if (machine->schedule > 3 ? machine->random() % 2 == 0 : machine->schedule % 2 == 0) {
        memcpy(to, from, 16);
    } else {
        // Whoever reads before the copy is done finds neither the new bytes nor the old ones.
        memset(to, poison, 16);
        copies.late.push_back(Copy{to, from, copies.group});
    }
}

void copy_async_commit() { Machine::here()->copies[running->thread].group++; }

void copy_async_wait(u32 pending) {
    Copies& copies = Machine::here()->copies[running->thread];
    size_t done = 0;
    for (; done < copies.late.size() && copies.late[done].group + pending < copies.group; done++)
        memcpy(copies.late[done].to, copies.late[done].from, 16);
    copies.late.erase(copies.late.begin(), copies.late.begin() + static_cast<std::ptrdiff_t>(done));
}

void load_matrices(u32* fragment, const void* row, bool transposed) {
    Machine* machine = Machine::here();
    if (!Machine::aligned(row) || !machine->in_shared(row, 16)) machine->refuse("load_matrices of a wrong address", row);
    Warp& warp = machine->warps[machine->thread / lanes];
    u32 lane = machine->thread % lanes, g = lane / 4, t = lane % 4;
    warp.rows[lane] = row;
    machine->arrive(transposed ? load_transposed : load);
    for (u32 m = 0; m < 4; m++) {
        const Byte(*rows)[16] = warp.loaded + m * 8;
        if (transposed) {
            u16 low, high;
            memcpy(&low, rows[2 * t] + 2 * g, 2);
            memcpy(&high, rows[2 * t + 1] + 2 * g, 2);
            fragment[m] = u32(high) << 16 | low;
        } else {
            memcpy(&fragment[m], rows[g] + 4 * t, 4);
        }
    }
}

void multiply_add(float* d, const u32* a, u32 b0, u32 b1) {
    Machine* machine = Machine::here();
    Warp& warp = machine->warps[machine->thread / lanes];
    u32 lane = machine->thread % lanes, g = lane / 4, t = lane % 4;
    auto low = [](u32 pair) { return bits_to_f32(pair << 16); };
    auto high = [](u32 pair) { return bits_to_f32(pair & 0xffff0000); };
    for (u32 i = 0; i < 4; i++) {
        float* at = &warp.a[g + i % 2 * 8][2 * t + i / 2 * 8];
        at[0] = low(a[i]);
        at[1] = high(a[i]);
    }
    warp.b[2 * t][g] = low(b0);
    warp.b[2 * t + 1][g] = high(b0);
    warp.b[2 * t + 8][g] = low(b1);
    warp.b[2 * t + 9][g] = high(b1);
    machine->exchange_sums(warp, multiply, d);
}

void multiply_add_tf32(float* d, const u32* a, u32 b0, u32 b1) {
    Machine* machine = Machine::here();
    if (((a[0] | a[1] | a[2] | a[3] | b0 | b1) & 0x1fff) != 0) {
        machine->set_error("multiply_add_tf32 of a number that is not tf32");
        machine->leave();
    }
    Warp& warp = machine->warps[machine->thread / lanes];
    u32 lane = machine->thread % lanes, g = lane / 4, t = lane % 4;
    for (u32 i = 0; i < 4; i++) warp.a[g + i % 2 * 8][t + i / 2 * 4] = bits_to_f32(a[i]);
    warp.b[t][g] = bits_to_f32(b0);
    warp.b[t + 4][g] = bits_to_f32(b1);
    machine->exchange_sums(warp, multiply_tf32, d);
}

u64 matrix_descriptor(const void* operand, u32 sums, u32 results) {
    Machine* machine = Machine::here();
    if (!Machine::aligned(operand) || !machine->in_shared(operand, 16)) machine->refuse("an operand at a wrong address", operand);
    u64 at = static_cast<u64>(static_cast<const Byte*>(operand) - machine->shared);
    return at / 16 | u64(sums / 16) << 16 | u64(results / 16) << 32;
}

void warpgroup_multiply_add(float* d, u64 a, u64 b, bool add, bool transposed) {
    Machine* machine = Machine::here();
    Products& products = machine->products[machine->thread];
    Product product{d, a, b, add, transposed, products.group};
    // Products of a thread run in order.
    bool early = machine->schedule > 3 ? machine->random() % 2 == 0 : machine->schedule % 2 == 0;
    if (early && products.late.empty()) machine->multiply_warpgroup(product);
    else products.late.push_back(product);
}

void warpgroup_commit() { Machine::here()->products[running->thread].group++; }

void warpgroup_wait(u32 pending) {
    Machine* machine = Machine::here();
    Products& products = machine->products[machine->thread];
    size_t done = 0;
    for (; done < products.late.size() && products.late[done].group + pending < products.group; done++)
        machine->multiply_warpgroup(products.late[done]);
    products.late.erase(products.late.begin(), products.late.begin() + static_cast<std::ptrdiff_t>(done));
}

} // namespace host

// Runs a kernel; if that fails, returns 1 and says why in `error`.
extern "C" int crescendo_launch(const char* kernel, const unsigned grid[3], unsigned threads, unsigned shared_bytes,
                                const void* params, unsigned params_bytes, unsigned schedule, char* error,
                                unsigned error_len) {
    std::string why = launch(find_kernel(kernel), grid, threads, shared_bytes, params, params_bytes, schedule);
    if (why.empty()) return 0;
    snprintf(error, error_len, "%s, schedule %u: %s", kernel, schedule, why.c_str());
    return 1;
}

// The size of a kernel's parameters; 0 if there is no such kernel.
extern "C" unsigned crescendo_params_bytes(const char* kernel) {
    const Kernel* found = find_kernel(kernel);
    return found ? found->params_bytes : 0;
}

// How many times the last launch of this thread had to wait in load_matrices because rows of a matrix lie in the same
// banks of shared memory. (Rows at one and the same address count, too.)
extern "C" u64 crescendo_bank_conflicts() { return last_bank_conflicts; }

// Memory that a kernel may use, full of NaNs; it is aligned to 16 bytes and no more. Null if there is none left.
extern "C" void* crescendo_allocate(u64 bytes) {
    Allocation a;
    size_t space = round_up(static_cast<size_t>(bytes), 16);
    a.region_bytes = round_up(space, page) + 2 * page;
    a.region = reserve(a.region_bytes);
    if (!a.region || !open(a.region + page, a.region_bytes - 2 * page)) return nullptr;
    a.data = a.region + a.region_bytes - page - space;
    a.bytes = static_cast<size_t>(bytes);
    a.owner = &last_bank_conflicts;
    memset(a.region + page, poison, a.region_bytes - 2 * page);
    std::lock_guard<std::mutex> lock(mutex);
    allocations.push_back(a);
    return a.data;
}

extern "C" void crescendo_free(void* data) {
    std::lock_guard<std::mutex> lock(mutex);
    for (Allocation& a : allocations) {
        if (a.data != data) continue;
        munmap(a.region, a.region_bytes);
        a = allocations.back();
        allocations.pop_back();
        return;
    }
}

// The kernels. A test of this file itself names others.
#ifdef CRESCENDO_KERNELS
#include CRESCENDO_KERNELS
#else
#include "../../kernels/kernels.cu"
#endif
