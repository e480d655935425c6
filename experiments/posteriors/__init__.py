"""What do full-batch samplers of the posterior say of a prior?"""
