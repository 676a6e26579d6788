//! Where readings come from: files and HTTP; never decides what is forecast.
