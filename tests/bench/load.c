/* Load generator: HTTP/1.1 POSTs over connections that stay open, one thread, epoll.
 *
 *   load -p PORT -P PATH -b BODY_FILE -k KEY -c CONNECTIONS -d SECONDS -r RATE
 *
 * RATE 0: each connection sends its next request when it has the answer. Else that many requests a second, each at its
 * fixed time, on a connection that is free; where none is, it goes out late, and its time counts from when it was due.
 * Prints one JSON line: answers, failures, and times in microseconds: `lat` to the last byte; where the answer carries
 * mock.c's marks "t=<16 digits>", `ttft` to the first of them, `chunk` their age on arrival, and `end` from the last
 * of them to the last byte. A mark that is cut by the end of a read is not counted. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 65536
#define DIGITS 16
#define MARK (2 + DIGITS)
#define PATIENCE_US 15000000 /* what has not ended so long after the end counts as failed */
#define LAST "0\r\n\r\n"     /* the last chunk of a chunked body */

typedef struct {
    int fd, busy, status, headers_read, chunked;
    int held; /* bytes of unfinished headers in `buffer` */
    long length, got;
    uint64_t due, first_mark, last_mark;
    char tail[5]; /* the last bytes of the body so far */
    char buffer[BUFFER + 1];
} Connection;

typedef struct {
    uint32_t *values;
    size_t count, room;
} Times;

static Times latency, first_token, age, ending;
static Connection *connections;
static char *request;
static int request_bytes, port, epoll;
static unsigned long sent, answered, refused, failed, in_flight;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void add(Times *times, uint64_t us) {
    if (times->count == times->room) {
        times->room = times->room ? 2 * times->room : 65536;
        times->values = realloc(times->values, times->room * sizeof *times->values);
    }
    times->values[times->count++] = (uint32_t)us;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print(const char *name, Times *times) {
    size_t n = times->count;
    uint32_t *v = times->values;
    if (!n) {
        printf(",\"%s\":null", name);
        return;
    }
    qsort(v, n, sizeof *v, ascending);
    printf(",\"%s\":{\"n\":%zu,\"p50\":%u,\"p99\":%u,\"max\":%u}", name, n, v[n / 2], v[n * 99 / 100], v[n - 1]);
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void dial(Connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&to, sizeof to))
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &wanted);
}

static void ask(Connection *c, uint64_t due) {
    c->busy = 1;
    c->status = c->headers_read = c->chunked = c->held = 0;
    c->length = c->got = 0;
    c->first_mark = c->last_mark = 0;
    memset(c->tail, 0, sizeof c->tail);
    c->due = due;
    sent++;
    in_flight++;
    for (int at = 0; at < request_bytes;) {
        int n = send(c->fd, request + at, request_bytes - at, MSG_NOSIGNAL);
        if (n > 0)
            at += n;
        else if (errno == EAGAIN)
            usleep(20);
        else
            return; /* reading will tell that the connection is gone */
    }
}

/* The body's first byte, or NULL while the headers are not whole. */
static char *read_headers(Connection *c) {
    char *end = strstr(c->buffer, "\r\n\r\n");
    if (!end)
        return NULL;
    c->headers_read = 1;
    c->status = atoi(c->buffer + strlen("HTTP/1.1 "));
    for (char *line = c->buffer; (line = strstr(line, "\r\n")) && line < end;) {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15))
            c->length = atol(line + 15);
        else if (!strncasecmp(line, "transfer-encoding: chunked", 26))
            c->chunked = 1;
    }
    return end + 4;
}

static void read_marks(Connection *c, const char *at, const char *end, uint64_t now) {
    while ((at = memmem(at, end - at, "t=", 2)) && end - at >= MARK) {
        uint64_t written = 0;
        int digits = 0;
        while (digits < DIGITS && at[2 + digits] >= '0' && at[2 + digits] <= '9')
            written = 10 * written + (at[2 + digits++] - '0');
        at += 2 + digits;
        if (digits < DIGITS)
            continue;
        add(&age, now - written);
        c->last_mark = now;
        if (!c->first_mark)
            c->first_mark = now;
    }
}

static void keep_tail(Connection *c, const char *body, int n) {
    int size = sizeof c->tail, kept = n < size ? size - n : 0;
    memmove(c->tail, c->tail + size - kept, kept);
    memcpy(c->tail + kept, body + n - (size - kept), size - kept);
}

/* Takes n new bytes; returns whether the answer is whole. */
static int feed(Connection *c, int n, uint64_t now) {
    char *body = c->buffer, *end = c->buffer + c->held + n;
    *end = 0;
    c->held += n;
    if (!c->headers_read && !(body = read_headers(c)))
        return 0;
    c->held = 0;
    c->got += end - body;
    read_marks(c, body, end, now);
    keep_tail(c, body, end - body);
    return c->chunked ? !memcmp(c->tail, LAST, sizeof c->tail) : c->got >= c->length;
}

static void finish(Connection *c, uint64_t now) {
    answered++;
    refused += c->status != 200;
    add(&latency, now - c->due);
    if (c->first_mark) {
        add(&first_token, c->first_mark - c->due);
        add(&ending, now - c->last_mark);
    }
    c->busy = 0;
    in_flight--;
}

/* Reads what has come on a connection. */
static void receive(Connection *c) {
    int n = recv(c->fd, c->buffer + c->held, BUFFER - c->held, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n > 0) {
        uint64_t now = now_us();
        if (c->busy && feed(c, n, now))
            finish(c, now);
        return;
    }
    failed += c->busy;
    in_flight -= c->busy;
    c->busy = 0;
    close(c->fd);
    dial(c);
}

static Connection *idle(int count) {
    for (int i = 0; i < count; i++)
        if (!connections[i].busy)
            return &connections[i];
    return NULL;
}

static void prepare(const char *path, const char *key, const char *body_file) {
    FILE *file = fopen(body_file, "r");
    if (!file)
        die(body_file);
    char *body = calloc(1, BUFFER);
    int body_bytes = fread(body, 1, BUFFER, file);
    fclose(file);
    request_bytes = asprintf(&request,
                             "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
                             "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%.*s",
                             path, port, key, body_bytes, body_bytes, body);
    free(body);
}

static void run(int count, double seconds, double rate) {
    uint64_t start = now_us(), end = start + (uint64_t)(seconds * 1e6), now;
    double due = start, gap = rate > 0 ? 1e6 / rate : 0;
    while ((now = now_us()) < end || in_flight) {
        if (now > end + PATIENCE_US)
            break;
        Connection *free_one;
        while (now < end && due <= now && (free_one = idle(count))) {
            ask(free_one, gap ? (uint64_t)due : now);
            due += gap;
        }
        /* Rounded down: the last millisecond before a request is due is waited for awake, to send it in time. */
        int wait_ms = gap && now < end && due > now ? (int)((due - now) / 1000) : 1;
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, wait_ms);
        for (int i = 0; i < n; i++)
            receive(events[i].data.ptr);
    }
    failed += in_flight;
    printf("{\"answered\":%lu,\"refused\":%lu,\"failed\":%lu", answered, refused, failed);
}

int main(int argc, char **argv) {
    const char *path = "/", *body_file = "", *key = "";
    int count = 1;
    double seconds = 1, rate = 0;
    for (int option; (option = getopt(argc, argv, "p:P:b:k:c:d:r:")) != -1;) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'P': path = optarg; break;
        case 'b': body_file = optarg; break;
        case 'k': key = optarg; break;
        case 'c': count = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'r': rate = atof(optarg); break;
        default: return 2;
        }
    }
    prepare(path, key, body_file);
    epoll = epoll_create1(0);
    connections = calloc(count, sizeof *connections);
    for (int i = 0; i < count; i++)
        dial(&connections[i]);
    run(count, seconds, rate);
    print("lat", &latency);
    print("ttft", &first_token);
    print("chunk", &age);
    print("end", &ending);
    printf("}\n");
    return 0;
}
