-- Kinds by name, after a given one.
select kind, type_name, policy
  from workerqueue.kinds
 where %(after)s::text is null or kind > %(after)s
 order by kind
 limit %(limit)s
