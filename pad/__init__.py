"""Reward-guided decoding: PAD (Chen et al., ICLR 2025, arXiv 2410.04070) and ARGS (Khanov et al., ICLR 2024, arXiv 2402.01694).

The commands over it are collect_model_outs.py (generate) and measure_reward.py (score).
"""
