//! What a host does next, case by case.
