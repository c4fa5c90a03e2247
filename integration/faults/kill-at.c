/* kill-at HOW N HELPER[:K] CMD…: runs CMD; a helper that CMD starts meets a fault at the Nth system call after its exec.
 *
 *   HOW     a signal's name (KILL, STOP), or the number of an errno that the call then ends with
 *   N       0: no fault; only counts
 *   HELPER  its first argument (`__namespace-child`); the Kth of that kind, else the first
 *
 * Prints to descriptor 8 `hit NUMBER` of the call it was stopped at, when it is; else in the end how many calls the helper
 * made, all its threads together. Ends with CMD's status. Its parent's calls are not looked at, so that the number belongs
 * to the helper alone; x86_64 only. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Threads of the helper. */
static struct task { pid_t pid; int entering, failing; } tasks[64];

static struct task *task_of(pid_t pid) {
  for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++) if (tasks[i].pid == pid) return &tasks[i];
  return NULL;
}

static void add_task(pid_t pid, int entering) {
  struct task *free_place = task_of(0);
  if (free_place) *free_place = (struct task){pid, entering, 0};
}

static pid_t group_of(pid_t pid) {
  char path[64], line[256];
  int group = 0;
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  FILE *file = fopen(path, "r");
  while (file && fgets(line, sizeof line, file)) sscanf(line, "Tgid: %d", &group);
  if (file) fclose(file);
  return group;
}

static int is_called(pid_t pid, const char *argument) {
  char path[64], line[256] = "";
  snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  ssize_t len = read(file, line, sizeof line - 1);
  close(file);
  size_t first = strlen(line) + 1;
  return len > 0 && first < (size_t)len && !strcmp(line + first, argument);
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  int fault_signal = !strcmp(argv[1], "KILL") ? SIGKILL : !strcmp(argv[1], "STOP") ? SIGSTOP : 0;
  long error = atol(argv[1]), wanted = atol(argv[2]), calls = 0, hit = -1, nth = 1, status_of_main = 2 << 8;
  char *colon = strchr(argv[3], ':');
  if (colon) { *colon = 0; nth = atol(colon + 1); }
  pid_t main_pid = fork(), helper = 0;
  if (main_pid == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    execvp(argv[4], argv + 4);
    _exit(127);
  }
  int status, armed = 0;
  long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
  waitpid(main_pid, &status, 0);
  ptrace(PTRACE_SETOPTIONS, main_pid, 0, options);
  ptrace(PTRACE_CONT, main_pid, 0, 0);
  for (;;) {
    pid_t pid = waitpid(-1, &status, __WALL);
    if (pid < 0) break;
    struct task *task = task_of(pid);
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      if (task) task->pid = 0;
      if (pid == main_pid) { status_of_main = status; break; }
      continue;
    }
    int signal = WSTOPSIG(status), deliver = 0, event = status >> 16;
    if (event == PTRACE_EVENT_EXEC) {
      if (!helper && is_called(pid, argv[3]) && --nth == 0) { helper = pid; armed = 1; add_task(pid, 0); } /* the next stop is the end of its exec */
    } else if (event) ;
    else if (signal == (SIGTRAP | 0x80)) {
      struct user_regs_struct regs;
      if (task && armed && task->entering && ++calls == wanted) {
        ptrace(PTRACE_GETREGS, pid, 0, &regs);
        hit = (long)regs.orig_rax;
        dprintf(8, "hit %ld\n", hit);
        if (fault_signal) { kill(helper, fault_signal); if (fault_signal == SIGKILL) continue; armed = 0; }
        else { regs.orig_rax = (unsigned long)-1; ptrace(PTRACE_SETREGS, pid, 0, &regs); task->failing = 1; }
      } else if (task && task->failing && !task->entering) {
        ptrace(PTRACE_GETREGS, pid, 0, &regs);
        regs.rax = (unsigned long)-error;
        ptrace(PTRACE_SETREGS, pid, 0, &regs);
        task->failing = 0;
      }
      if (task) task->entering = !task->entering;
    } else if (signal == SIGSTOP && fault_signal == SIGSTOP && pid == helper) { ptrace(PTRACE_DETACH, pid, 0, SIGSTOP); continue; }
    else if (signal == SIGSTOP && helper && !task && pid != main_pid && group_of(pid) == helper) add_task(pid, 1); /* its birth */
    else if (signal != SIGSTOP && signal != SIGTRAP) deliver = signal;
    /* Until its exec a helper shares the parent's memory and is the parent's affair. */
    ptrace(task_of(pid) ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, deliver);
  }
  if (hit < 0) dprintf(8, "%ld\n", calls);
  if (WIFSIGNALED(status_of_main)) return 128 + WTERMSIG(status_of_main);
  return WEXITSTATUS(status_of_main);
}
