//! `leveret inspect`: reads a data directory and changes nothing.
