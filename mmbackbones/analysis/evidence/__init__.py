"""What published results say of token mixers at equal ImageNet accuracy, with intervals."""
