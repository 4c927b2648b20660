//! Exit codes: a contract that scripts rely on.

/// It worked.
pub const OK: u8 = 0;
/// It failed.
pub const FAILED: u8 = 1;
/// The command line cannot be right.
pub const USAGE: u8 = 2;
/// The thing does not exist.
pub const NOT_FOUND: u8 = 3;
/// Not logged in, or not allowed.
pub const REFUSED: u8 = 4;
/// The thing is not in a state that allows it, the name is taken, or there is no room.
pub const CONFLICT: u8 = 5;
/// The server cannot be reached.
pub const UNREACHABLE: u8 = 6;
/// `run` and `exec`: Plimsoll itself failed before the program began (as Docker's).
pub const RUN_FAILED: u8 = 125;
/// `run` and `exec`: the program cannot be executed (as Docker's).
pub const RUN_NOT_EXECUTABLE: u8 = 126;
/// `run` and `exec`: the program was not found (as Docker's).
pub const RUN_NOT_FOUND: u8 = 127;

/// The table as help shows it.
pub const HELP: &str = "\
Exit codes:
  0    it worked
  1    it failed
  2    the command line cannot be right
  3    the thing does not exist
  4    not logged in, or not allowed
  5    conflict: wrong state, name taken, or no room
  6    the server cannot be reached
  125  run, exec: Plimsoll itself failed
  126  run, exec: the program cannot be executed
  127  run, exec: the program was not found
  run and exec otherwise pass on the exit code of the program.";
