"""The certificate: two networks run side by side on probes, and compared."""
