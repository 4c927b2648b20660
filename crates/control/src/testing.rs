//! A control over the memory store with scripted hosts, for tests of personalities.
