/* kill-at HOW N CMD…: runs CMD; a helper that CMD starts meets a fault at the Nth system call after its exec.
 *
 *   HOW   a signal's name (KILL, STOP), or the number of an errno that the call then ends with
 *   N     0: no fault; only counts
 *
 * Prints to descriptor 8 how many calls the first helper made, or `hit NUMBER` of the call it was stopped at. Ends with
 * CMD's status. Its parent's calls are not looked at, so that the number belongs to the helper alone; x86_64 only. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static int is_thread(pid_t pid, pid_t main_pid) {
  char path[64], line[256];
  int group = 0;
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  FILE *file = fopen(path, "r");
  while (file && fgets(line, sizeof line, file)) sscanf(line, "Tgid: %d", &group);
  if (file) fclose(file);
  return group == main_pid;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  int fault_signal = !strcmp(argv[1], "KILL") ? SIGKILL : !strcmp(argv[1], "STOP") ? SIGSTOP : 0;
  long error = atol(argv[1]), wanted = atol(argv[2]), calls = 0, hit = -1, status_of_main = 2 << 8;
  pid_t main_pid = fork(), helper = 0;
  if (main_pid == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    execvp(argv[3], argv + 3);
    _exit(127);
  }
  int status, entering = 1, armed = 0, failing = 0, executed = 0;
  long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
  waitpid(main_pid, &status, 0);
  ptrace(PTRACE_SETOPTIONS, main_pid, 0, options);
  ptrace(PTRACE_CONT, main_pid, 0, 0);
  for (;;) {
    pid_t pid = waitpid(-1, &status, __WALL);
    if (pid < 0) break;
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      if (pid == main_pid) { status_of_main = status; break; }
      continue;
    }
    int signal = WSTOPSIG(status), deliver = 0, event = status >> 16;
    if (event == PTRACE_EVENT_EXEC && pid == helper) { executed = armed = 1; entering = 0; } /* the next stop is the end of its exec */
    else if (event) ;
    else if (signal == (SIGTRAP | 0x80)) {
      if (pid == helper && armed && entering && ++calls == wanted) {
        struct user_regs_struct regs;
        ptrace(PTRACE_GETREGS, pid, 0, &regs);
        hit = (long)regs.orig_rax;
        if (fault_signal) { kill(pid, fault_signal); if (fault_signal == SIGKILL) continue; armed = 0; }
        else { regs.orig_rax = (unsigned long)-1; ptrace(PTRACE_SETREGS, pid, 0, &regs); failing = 1; }
      } else if (pid == helper && failing && !entering) {
        struct user_regs_struct regs;
        ptrace(PTRACE_GETREGS, pid, 0, &regs);
        regs.rax = (unsigned long)-error;
        ptrace(PTRACE_SETREGS, pid, 0, &regs);
        failing = 0;
      }
      if (pid == helper) entering = !entering;
    } else if (signal == SIGSTOP && pid != main_pid && !helper && !is_thread(pid, main_pid)) helper = pid; /* its birth */
    else if (signal == SIGSTOP && fault_signal == SIGSTOP && pid == helper) { ptrace(PTRACE_DETACH, pid, 0, SIGSTOP); continue; }
    else if (signal != SIGSTOP && signal != SIGTRAP) deliver = signal;
    /* Until its exec the helper shares the parent's memory and is the parent's affair. */
    ptrace(pid == helper && (executed || armed) ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, deliver);
  }
  if (hit >= 0) dprintf(8, "hit %ld\n", hit);
  else dprintf(8, "%ld\n", calls);
  if (WIFSIGNALED(status_of_main)) return 128 + WTERMSIG(status_of_main);
  return WEXITSTATUS(status_of_main);
}
