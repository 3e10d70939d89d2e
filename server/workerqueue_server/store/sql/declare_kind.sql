-- Records a kind and its policy, for enqueues by SQL and for operators.
insert into workerqueue.kinds as k (kind, type_name, policy)
values (%(kind)s, %(type_name)s, %(policy)s)
on conflict (kind) do update
   set type_name = excluded.type_name, policy = excluded.policy, declared_at = now()
 where (k.type_name, k.policy) is distinct from (excluded.type_name, excluded.policy)
