// Preloaded into a process: its wall clock is off by the seconds that a file says, its monotonic one is true.
//
// libfaketime cannot be used for this: it also takes over the absolute monotonic sleeps that Python's
// time.sleep makes, and breaks them.

#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

namespace {

const volatile std::int64_t *offset_s = nullptr;

// Runs before main; without the file the clock is true.
__attribute__((constructor)) void map_offset() {
    const char *path = std::getenv("CHAOS_WALL_CLOCK");
    const int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(nullptr, sizeof(std::int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) offset_s = static_cast<const volatile std::int64_t *>(at);
    close(file);
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec *now) noexcept {
    const long failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset_s;
    return static_cast<int>(failed);
}

extern "C" int gettimeofday(timeval *now, void *) noexcept {
    timespec precise;
    const int failed = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}

extern "C" time_t time(time_t *seconds) noexcept {
    timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (seconds) *seconds = precise.tv_sec;
    return precise.tv_sec;
}
