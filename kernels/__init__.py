"""The sparse-delta mathematics: references and kernels that know nothing of networks; imports nothing of ours."""
