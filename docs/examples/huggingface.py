import bayesprior as bp

collect = bp.huggingface.CollectSWAG(rank=10, start=1000, every=20)
# transformers.Trainer(model, arguments, train_dataset=data, callbacks=[collect]).train()
# collect.posterior().save("source.safetensors")
print(type(collect).__name__)
