/* The few system calls of a link, so that the compiled module holds no platform's header. */
#ifndef SLOTWISE_NET_H
#define SLOTWISE_NET_H

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>

#ifndef MSG_NOSIGNAL /* macOS: the socket option SO_NOSIGPIPE, which CPython sets process-wide by ignoring SIGPIPE */
#define MSG_NOSIGNAL 0
#endif

/* Seconds of a clock that never goes back. */
static inline double slotwise_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Sends without waiting. Returns bytes taken, or -errno. */
static inline ssize_t slotwise_send(int fd, const char *p, size_t n)
{
    ssize_t done = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    return done < 0 ? -(ssize_t)errno : done;
}

/* Receives; waits only when `wait` is true. Returns bytes, 0 at the end of the stream, or -errno. */
static inline ssize_t slotwise_recv(int fd, char *p, size_t n, int wait)
{
    ssize_t done = recv(fd, p, n, wait ? 0 : MSG_DONTWAIT);
    return done < 0 ? -(ssize_t)errno : done;
}

/* Receives, asking again and again for `seconds`, and lets whoever wants this core have it in between: the server may
 * be waiting for it. Returns bytes, 0 at the end of the stream, or -errno: -EAGAIN when nothing came. */
static inline ssize_t slotwise_recv_soon(int fd, char *p, size_t n, double seconds)
{
    double until = slotwise_now() + seconds;
    ssize_t done;
    while ((done = slotwise_recv(fd, p, n, 0)) == -EAGAIN || done == -EWOULDBLOCK) {
        if (slotwise_now() >= until)
            break;
        sched_yield();
    }
    return done == -EWOULDBLOCK ? -EAGAIN : done;
}

/* A blocking recv gives up after `seconds`; 0 waits for ever. Returns 0 or -errno. */
static inline int slotwise_recv_timeout(int fd, double seconds)
{
    struct timeval t;
    t.tv_sec = (time_t)seconds;
    t.tv_usec = (suseconds_t)((seconds - (double)t.tv_sec) * 1e6);
    if (seconds > 0 && t.tv_sec == 0 && t.tv_usec == 0)
        t.tv_usec = 1;
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) < 0 ? -errno : 0;
}

/* Waits for one socket. Returns its events, 0 after `seconds` (negative: for ever), or -errno. */
static inline int slotwise_wait(int fd, int events, double seconds)
{
    struct pollfd p;
    int ready;
    p.fd = fd;
    p.events = (short)events;
    p.revents = 0;
    ready = poll(&p, 1, seconds < 0 ? -1 : (int)(seconds * 1e3 + 0.999));
    return ready < 0 ? -errno : ready ? p.revents : 0;
}

#endif
